// The promise of docs/numerics.md, bit for bit: a row's result does not depend on the batch, the
// threads, the paging, or how a matrix is cut over ranks.

#include <gtest/gtest.h>

#include <numeric>

#include "backend/ops_test_support.h"
#include "backend/slices.h"

namespace fourfold::backend {
namespace {

using namespace testing;  // NOLINT: the support of these tests

class Invariance : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Backends, Invariance, ::testing::ValuesIn(available_backends()),
                         name_of_backend);

/// The sum over tp ranks, each with its slices of K, by the tree over ranks.
std::vector<float> multiply_split(const std::string& backend, const Matrix& x, const Matrix& w,
                                  int64_t granule, int64_t tp) {
  std::vector<float> partials;
  const auto ends = slice_ends(x.columns, granule);
  for (int64_t rank = 0; rank < tp; ++rank) {
    const int64_t first = rank * 8 / tp;
    const int64_t last = (rank + 1) * 8 / tp;
    const int64_t begin = first == 0 ? 0 : ends[static_cast<size_t>(first - 1)];
    const int64_t end = ends[static_cast<size_t>(last - 1)];
    const auto partial =
        multiply(backend, x.part(0, x.rows, begin, end), w.part(0, w.rows, begin, end),
                 slice_ends(x.columns, granule, first, last));
    partials.insert(partials.end(), partial.begin(), partial.end());
  }
  const int64_t n = x.rows * w.rows;
  join_slices(partials.data(), tp, n, n);
  partials.resize(static_cast<size_t>(n));
  return partials;
}

TEST_P(Invariance, RanksThatSplitKSumToTheOneRankResult) {
  struct Size {
    int64_t m, n, k, granule;
  };
  for (const Size& size : {Size{1, 33, 1024, 32}, Size{17, 50, 1000, 32}, Size{9, 16, 14 * 80, 80},
                           Size{3, 48, 96, 32}, Size{5, 20, 8 * 16, 16}, Size{4, 20, 70, 32}}) {
    const Matrix x = Matrix::random(1, size.m, size.k);
    const Matrix w = Matrix::random(2, size.n, size.k);
    const auto one = multiply(GetParam(), x, w, slice_ends(size.k, size.granule));
    for (const int64_t tp : {1, 2, 4, 8}) {
      EXPECT_TRUE(same_bits(multiply_split(GetParam(), x, w, size.granule, tp), one))
          << "tp " << tp << ", K " << size.k << ", granule " << size.granule;
    }
  }
}

// The test above could pass because no order matters; it does.
TEST_P(Invariance, PermutedSlicesGiveOtherBits) {
  constexpr int64_t kColumns = 1024;
  const Matrix x = Matrix::random(1, 4, kColumns);
  const Matrix w = Matrix::random(2, 33, kColumns);
  const auto ends = slice_ends(kColumns, 32);
  // Slices 1 and 6 trade places in both x and w: the same products, another tree.
  const auto permuted = [](const Matrix& m) {
    Matrix out = m;
    for (int64_t r = 0; r < m.rows; ++r) {
      const auto row = out.values.begin() + r * m.columns;
      std::swap_ranges(row + 128, row + 256, row + 768);
    }
    return out;
  };
  const auto expected = multiply(GetParam(), x, w, ends);
  const auto got = multiply(GetParam(), permuted(x), permuted(w), ends);
  EXPECT_FALSE(same_bits(got, expected));
  EXPECT_LE(nmse(got, expected), 1e-11);
  EXPECT_FALSE(same_bits(multiply(GetParam(), x, w, {kColumns}), expected));
}

TEST_P(Invariance, ColumnsOfTheOutputMayBeCutAnywhere) {
  const Matrix x = Matrix::random(1, 19, 160);
  const Matrix w = Matrix::random(2, 100, 160);
  const auto whole = multiply(GetParam(), x, w, {160});
  for (const int64_t cut : {1, 16, 37, 50, 99}) {
    const auto left = multiply(GetParam(), x, w.part(0, cut, 0, 160), {160});
    const auto right = multiply(GetParam(), x, w.part(cut, 100, 0, 160), {160});
    std::vector<float> joined;
    for (int64_t m = 0; m < x.rows; ++m) {
      joined.insert(joined.end(), left.begin() + m * cut, left.begin() + (m + 1) * cut);
      joined.insert(joined.end(), right.begin() + m * (100 - cut),
                    right.begin() + (m + 1) * (100 - cut));
    }
    EXPECT_TRUE(same_bits(joined, whole)) << "cut at " << cut;
  }
}

TEST_P(Invariance, RowsOfAMatmulDoNotSeeEachOther) {
  const Matrix x = Matrix::random(1, 300, 1100);
  const Matrix w = Matrix::random(2, 53, 1100);
  const auto ends = slice_ends(1100, 32);
  const auto whole = multiply(GetParam(), x, w, ends);
  for (const int64_t chunk : {1, 2, 3, 5, 8, 16, 47, 129}) {
    std::vector<float> joined;
    for (int64_t row = 0; row < x.rows; row += chunk) {
      const int64_t end = std::min(x.rows, row + chunk);
      if (chunk == 1 && row >= 20) {  // twenty rows alone are enough
        const auto rest = whole.begin() + row * w.rows;
        joined.insert(joined.end(), rest, whole.end());
        break;
      }
      const auto part = multiply(GetParam(), x.part(row, end, 0, x.columns), w, ends);
      joined.insert(joined.end(), part.begin(), part.end());
    }
    EXPECT_TRUE(same_bits(joined, whole)) << "chunks of " << chunk;
  }
}

TEST_P(Invariance, ThreadsDoNotTouchAMatmul) {
  for (const int64_t rows : {1, 40}) {
    const Matrix x = Matrix::random(1, rows, 700);
    const Matrix w = Matrix::random(2, 401, 700);
    const auto one = multiply(GetParam(), x, w, slice_ends(700, 32), 1);
    for (const int threads : {2, 3}) {
      EXPECT_TRUE(same_bits(multiply(GetParam(), x, w, slice_ends(700, 32), threads), one))
          << threads << " threads, " << rows << " rows";
    }
  }
}

TEST_P(Invariance, AttentionDoesNotSeeThePaging) {
  for (const int64_t window : {0, 150}) {
    AttentionCase c{.head_dim = 80,
                    .kv_heads = 2,
                    .heads_per_kv_head = 2,
                    .block_size = 16,
                    .window = window,
                    .lengths = {300, 3, 129},
                    .rows = {}};
    c.query_last(40);
    const auto expected = attend(GetParam(), c);
    for (const int64_t block_size : {1, 7, 128, 512}) {
      c.block_size = block_size;
      EXPECT_TRUE(same_bits(attend(GetParam(), c), expected)) << "block size " << block_size;
    }
  }
}

TEST_P(Invariance, AttentionRowsDoNotSeeEachOther) {
  AttentionCase c{
      .head_dim = 64, .kv_heads = 2, .heads_per_kv_head = 4, .lengths = {260, 40, 131}, .rows = {}};
  c.query_last(9);
  const auto whole = attend(GetParam(), c);
  const auto rows = c.rows;
  const int64_t width = 64 * 8;
  for (size_t i = 0; i < rows.size(); ++i) {
    c.rows = {rows[i]};
    const auto at = whole.begin() + static_cast<int64_t>(i) * width;
    EXPECT_TRUE(same_bits(attend(GetParam(), c), std::vector<float>(at, at + width))) << i;
  }
}

TEST_P(Invariance, AttentionDoesNotSeeLaterPositionsOrThreads) {
  AttentionCase c{
      .head_dim = 64, .kv_heads = 2, .heads_per_kv_head = 2, .lengths = {200, 131}, .rows = {}};
  c.rows = {{0, 100}, {1, 127}, {0, 0}, {1, 128}};
  const auto expected = attend(GetParam(), c, 1);
  for (const int threads : {2, 3}) EXPECT_TRUE(same_bits(attend(GetParam(), c, threads), expected));
  c.lengths = {101, 129};
  EXPECT_TRUE(same_bits(attend(GetParam(), c), expected));
}

TEST_P(Invariance, AttentionHeadsMayBeCutOverRanks) {
  AttentionCase c{
      .head_dim = 16, .kv_heads = 1, .heads_per_kv_head = 6, .lengths = {140}, .rows = {}};
  c.query_last(4);
  const auto six = attend(GetParam(), c);
  // Queries are drawn head after head, so a rank with fewer heads has the first of them.
  c.heads_per_kv_head = 2;
  const auto two = attend(GetParam(), c);
  for (int64_t m = 0; m < 4; ++m) {
    const std::vector<float> first(six.begin() + m * 96, six.begin() + m * 96 + 32);
    EXPECT_TRUE(same_bits(first, {two.begin() + m * 32, two.begin() + (m + 1) * 32})) << m;
  }
}

TEST_P(Invariance, RowOperatorsDoNotSeeTheBatchOrTheThreads) {
  constexpr int64_t kRows = 65;
  constexpr int64_t kWidth = 1000;
  const auto x = random_values(1, kRows * kWidth);
  const auto y = random_values(2, kRows * kWidth);
  const auto run = [&](int64_t begin, int64_t end, int threads) {
    Device device(GetParam(), threads);
    const auto rows = [&](const std::vector<float>& all) {
      return std::vector<float>(all.begin() + begin * kWidth, all.begin() + end * kWidth);
    };
    const Owned a(DType::kF32, {end - begin, kWidth}, rows(x));
    const Owned b(DType::kF32, {end - begin, kWidth}, rows(y));
    const Owned out(device.ops->activation_dtype(), {end - begin, kWidth});
    device.ops->add(*device.stream, a.view(), b.view());
    device.ops->rms_norm(*device.stream, a.view(),
                         *device.ops->load_vector(random_values(3, kWidth)).value(), 1e-5F,
                         a.view());
    device.ops->gated_activation(*device.stream, Activation::kGeluTanh, a.view(), b.view(),
                                 out.view());
    return out.values();
  };
  const auto whole = run(0, kRows, 1);
  EXPECT_TRUE(same_bits(run(0, kRows, 3), whole));
  for (const int64_t cut : {1, 7, 64}) {
    auto joined = run(0, cut, 1);
    const auto rest = run(cut, kRows, 2);
    joined.insert(joined.end(), rest.begin(), rest.end());
    EXPECT_TRUE(same_bits(joined, whole)) << "cut at " << cut;
  }
}

}  // namespace
}  // namespace fourfold::backend
