// Every operator on every backend against `reference`, and `reference` against formulas in double.

#include <gtest/gtest.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <atomic>
#include <cmath>
#include <map>
#include <numbers>

#include "backend/cpu/kernels.h"
#include "backend/ops_test_support.h"

namespace fourfold::backend {
namespace {

using namespace testing;  // NOLINT: the support of these tests

// fp32 sums of the same inputs differ in rounding only; a bf16 result has 2^-9 of error on top.
constexpr double kF32Bound = 1e-11;
constexpr double kBf16Bound = 1e-5;

double bound_of(const Ops& ops) {
  return ops.activation_dtype() == DType::kBF16 ? kBf16Bound : kF32Bound;
}

class Conformance : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Backends, Conformance, ::testing::ValuesIn(backends_in_both_numerics()),
                         name_of_backend);

struct MatmulSize {
  int64_t m, n, k;
  std::vector<int64_t> ends;
};

std::vector<MatmulSize> matmul_sizes() {
  std::vector<MatmulSize> sizes;
  for (const int64_t m : {0, 1, 2, 3, 8, 9, 16, 17, 33, 130}) {
    sizes.push_back({m, 48, 64, {64}});
    sizes.push_back({m, 37, 100, {100}});
  }
  for (const int64_t n : {1, 15, 16, 17, 47, 49, 96, 97}) sizes.push_back({5, n, 32, {32}});
  for (const int64_t k : {1, 2, 31, 33, 96, 777, 1056}) sizes.push_back({3, 20, k, {k}});
  // Of many rows of w or columns, whose sums a device may share out.
  for (const int64_t m : {2, 9, 17, 40, 100}) sizes.push_back({m, 700, 1032, {1032}});
  for (const int64_t m : {1, 8, 9, 17}) sizes.push_back({m, 4219, 352, {352}});
  sizes.push_back({128, 129, 264, {264}});
  sizes.push_back({7, 33, 8 * 64, slice_ends(8 * 64, 32)});
  sizes.push_back({7, 33, 3 * 32, slice_ends(3 * 32, 32)});    // most slices are empty
  sizes.push_back({2, 33, 5 * 80, slice_ends(5 * 80, 80)});    // head_dim 80
  sizes.push_back({2, 33, 16 * 10, slice_ends(16 * 10, 16)});  // head_dim 16
  sizes.push_back({20, 50, 256, slice_ends(1000, 32, 2, 4)});  // a rank of tp 4
  sizes.push_back({20, 50, 0, {0, 0}});                        // a rank without columns
  return sizes;
}

TEST_P(Conformance, MatmulAgreesWithDouble) {
  uint64_t seed = 1;
  for (const MatmulSize& size : matmul_sizes()) {
    const Matrix x = Matrix::random(++seed, size.m, size.k);
    const Matrix w = Matrix::random(++seed, size.n, size.k);
    std::vector<float> expected;
    for (int64_t m = 0; m < size.m; ++m) {
      for (int64_t n = 0; n < size.n; ++n) {
        double sum = 0;
        for (int64_t k = 0; k < size.k; ++k) {
          sum += double{x.values[static_cast<size_t>(m * size.k + k)]} *
                 double{w.values[static_cast<size_t>(n * size.k + k)]};
        }
        expected.push_back(static_cast<float>(sum));
      }
    }
    EXPECT_LE(nmse(multiply(GetParam(), x, w, size.ends), expected), kF32Bound)
        << size.m << " x " << size.n << " x " << size.k << ", " << size.ends.size() << " slices";
  }
}

TEST_P(Conformance, MatrixBytesAreExactAndRowsComeBackByEmbed) {
  Device device(GetParam());
  for (const auto& ends : {slice_ends(200, 32), slice_ends(90, 10), std::vector<int64_t>{77}}) {
    const Matrix table = Matrix::random(5, 37, ends.back());
    const WeightPtr weight = load(device, table, ends);
    EXPECT_EQ(weight->bytes(), device.ops->matrix_bytes({table.rows, table.columns, ends}));
    // The shard begins at token 100; 99 and 137 are on other shards.
    const Owned tokens({136, 100, 99, 117, 137});
    const Owned out(DType::kF32, {5, table.columns});
    device.ops->embed(*device.stream, *weight, tokens.view(), 100, 3.0F, out.view());
    std::vector<float> expected;
    for (const int64_t row : {36, 0, -1, 17, -1}) {
      for (int64_t k = 0; k < table.columns; ++k) {
        const float value =
            row < 0 ? 0 : table.values[static_cast<size_t>(row * table.columns + k)];
        expected.push_back(value * 3.0F + 0.0F);
      }
    }
    EXPECT_TRUE(same_bits(out.values(), expected));
  }
}

TEST_P(Conformance, EmbedGivesAZeroOneSign) {
  Device device(GetParam());
  const Matrix table{1, 2, {-0.0F, 1.0F}};
  const WeightPtr weight = load(device, table, {2});
  const Owned out(DType::kF32, {1, 2});
  device.ops->embed(*device.stream, *weight, Owned(std::vector<int32_t>{0}).view(), 0, 1.0F,
                    out.view());
  EXPECT_TRUE(same_bits(out.values(), {0.0F, 1.0F}));
}

TEST_P(Conformance, RmsNorm) {
  Device device(GetParam());
  for (const int64_t rows : {0, 1, 17}) {
    for (const int64_t width : {2, 16, 30, 80, 257, 640}) {
      const auto x = random_values(11, rows * width);
      const auto gain = random_values(12, width);
      const WeightPtr weight = device.ops->load_vector(gain).value();
      std::vector<float> expected;
      for (int64_t m = 0; m < rows; ++m) {
        double squares = 0;
        for (int64_t i = 0; i < width; ++i) {
          squares += std::pow(double{x[static_cast<size_t>(m * width + i)]}, 2);
        }
        const double r = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
        for (int64_t i = 0; i < width; ++i) {
          expected.push_back(static_cast<float>(double{x[static_cast<size_t>(m * width + i)]} * r *
                                                double{gain[static_cast<size_t>(i)]}));
        }
      }
      const Owned in(DType::kF32, {rows, width}, x);
      const Owned out(device.ops->activation_dtype(), {rows, width});
      device.ops->rms_norm(*device.stream, in.view(), *weight, 1e-5F, out.view());
      EXPECT_LE(nmse(out.values(), expected), bound_of(*device.ops)) << rows << " x " << width;
      device.ops->rms_norm(*device.stream, in.view(), *weight, 1e-5F, in.view());
      EXPECT_LE(nmse(in.values(), expected), kF32Bound) << rows << " x " << width << " in place";
    }
  }
}

TEST_P(Conformance, NormRope) {
  Device device(GetParam());
  for (const int64_t head_dim : {2, 16, 64, 80, 256}) {
    for (const bool norm : {false, true}) {
      constexpr int64_t kRows = 3;
      constexpr int64_t kHeads = 5;
      constexpr int64_t kPositions = 40;
      const int64_t half = head_dim / 2;
      const auto x = random_values(21, kRows * kHeads * head_dim);
      const auto gain = random_values(22, head_dim);
      const std::vector<int32_t> positions = {0, 39, 7};
      const Owned cos(DType::kF32, {kPositions, half}, random_values(23, kPositions * half));
      const Owned sin(DType::kF32, {kPositions, half}, random_values(24, kPositions * half));
      std::vector<float> expected;
      for (size_t m = 0; m < kRows; ++m) {
        for (size_t h = 0; h < kHeads; ++h) {
          std::vector<double> head;
          double squares = 0;
          for (size_t d = 0; d < static_cast<size_t>(head_dim); ++d) {
            head.push_back(x[(m * kHeads + h) * static_cast<size_t>(head_dim) + d]);
            squares += head.back() * head.back();
          }
          const double r = norm ? 1 / std::sqrt(squares / static_cast<double>(head_dim) + 1e-6) : 1;
          for (size_t d = 0; d < head.size(); ++d) head[d] *= norm ? r * double{gain[d]} : 1;
          const auto n = static_cast<size_t>(half);
          const size_t at = static_cast<size_t>(positions[m]) * n;
          for (size_t d = 0; d < head.size(); ++d) {
            const double c = cos.view().f32()[at + d % n];
            const double s = sin.view().f32()[at + d % n];
            expected.push_back(static_cast<float>(d < n ? head[d] * c - head[d + n] * s
                                                        : head[d] * c + head[d - n] * s));
          }
        }
      }
      const WeightPtr weight = device.ops->load_vector(gain).value();
      const Owned in(DType::kF32, {kRows, kHeads, head_dim}, x);
      device.ops->norm_rope(*device.stream, in.view(), norm ? weight.get() : nullptr, 1e-6F,
                            Owned(positions).view(), {cos.view(), sin.view()});
      EXPECT_LE(nmse(in.values(), expected), kF32Bound) << head_dim << (norm ? " with norm" : "");
    }
  }
}

TEST_P(Conformance, GatedActivation) {
  Device device(GetParam());
  for (const int64_t width : {1, 16, 100, 4097}) {
    auto gate = random_values(31, 3 * width);
    const auto up = random_values(32, 3 * width);
    for (float& value : gate) value *= 20;
    for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
      std::vector<float> expected;
      for (size_t i = 0; i < gate.size(); ++i) {
        const double x = gate[i];
        const double u = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
        const double y =
            activation == Activation::kSilu ? x / (1 + std::exp(-x)) : 0.5 * x * (1 + std::tanh(u));
        expected.push_back(static_cast<float>(y * double{up[i]}));
      }
      const Owned out(device.ops->activation_dtype(), {3, width});
      device.ops->gated_activation(*device.stream, activation,
                                   Owned(DType::kF32, {3, width}, gate).view(),
                                   Owned(DType::kF32, {3, width}, up).view(), out.view());
      EXPECT_LE(nmse(out.values(), expected), bound_of(*device.ops)) << width;
    }
  }
}

TEST_P(Conformance, GatedActivationKeepsExtremes) {
  Device device(GetParam());
  const std::vector<float> gate = {-1000, 1000, 0, NAN, -100};
  const Owned out(device.ops->activation_dtype(), {1, 5});
  device.ops->gated_activation(*device.stream, Activation::kSilu,
                               Owned(DType::kF32, {1, 5}, gate).view(),
                               Owned(DType::kF32, {1, 5}, {1, 1, 1, 1, 1}).view(), out.view());
  const auto got = out.values();
  EXPECT_NEAR(got[0], 0, 1e-30);
  EXPECT_NEAR(got[1], 1000, 2);
  EXPECT_EQ(got[2], 0);
  EXPECT_TRUE(std::isnan(got[3]));
  EXPECT_NEAR(got[4], 0, 1e-30);
}

TEST_P(Conformance, AddGatherAndHash) {
  Device device(GetParam());
  const auto x = random_values(41, 17 * 30);
  const auto y = random_values(42, 17 * 30);
  const Owned sum(DType::kF32, {17, 30}, x);
  device.ops->add(*device.stream, sum.view(), Owned(DType::kF32, {17, 30}, y).view());
  std::vector<float> expected;
  for (size_t i = 0; i < x.size(); ++i) expected.push_back(x[i] + y[i]);
  EXPECT_TRUE(same_bits(sum.values(), expected));

  const Owned rows(DType::kF32, {3, 30});
  device.ops->gather_rows(*device.stream, sum.view(), Owned({16, 0, 16}).view(), rows.view());
  std::vector<float> gathered;
  for (const int64_t row : {16, 0, 16}) {
    gathered.insert(gathered.end(), expected.begin() + row * 30, expected.begin() + (row + 1) * 30);
  }
  EXPECT_TRUE(same_bits(rows.values(), gathered));

  std::vector<uint64_t> hashes(3);
  device.ops->hash_rows(*device.stream, rows.view(), hashes);
  device.stream->synchronize();
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(hashes[i], XXH3_64bits(gathered.data() + 30 * i, 30 * sizeof(float)));
  }
}

TEST_P(Conformance, ZeroRowsAreLegalEverywhere) {
  Device device(GetParam(), 2, {.rows = 0, .columns = 32, .heads = 2, .head_dim = 16});
  const Owned none(std::vector<int32_t>{});
  const Owned table(DType::kI32, {0, 0});
  const Owned wide(DType::kF32, {0, 32});
  const Owned activations(device.ops->activation_dtype(), {0, 32});
  const Owned heads(DType::kF32, {0, 2, 16});
  const Owned rope(DType::kF32, {0, 8});
  const WeightPtr matrix = load(device, Matrix::random(1, 32, 32), {32});
  const WeightPtr vector = device.ops->load_vector(random_values(1, 32)).value();
  const RowLayout rows{none.view(), none.view(), table.view()};
  const KvLayer cache{nullptr, nullptr, 0, 2, 16, 16};
  Ops& ops = *device.ops;
  ops.embed(*device.stream, *matrix, none.view(), 0, 1, wide.view());
  ops.rms_norm(*device.stream, wide.view(), *vector, 1e-5F, activations.view());
  ops.matmul(*device.stream, device.arena, activations.view(), {{*matrix, wide.view()}});
  ops.add(*device.stream, wide.view(), wide.view());
  ops.norm_rope(*device.stream, heads.view(), nullptr, 0, none.view(), {rope.view(), rope.view()});
  ops.kv_write(*device.stream, heads.view(), heads.view(), rows, cache);
  ops.attention(*device.stream, device.arena, heads.view(), rows, cache, {}, activations.view());
  ops.gated_activation(*device.stream, Activation::kSilu, wide.view(), wide.view(),
                       activations.view());
  ops.gather_rows(*device.stream, wide.view(), none.view(), wide.view());
  ops.hash_rows(*device.stream, wide.view(), {});
  EXPECT_EQ(device.stream->counters.matmul_flops, 0);
  EXPECT_EQ(device.stream->counters.attention_flops, 0);
}

/// What attend() computes, in double.
std::vector<float> attend_in_double(const AttentionCase& c) {
  const auto vectors = [&](uint64_t seed, int32_t sequence, int64_t position, int64_t count) {
    auto row = random_values(
        seed + 100003 * static_cast<uint64_t>(sequence) + 7 * static_cast<uint64_t>(position),
        count * c.head_dim);
    for (float& value : row) value *= 2;
    return row;
  };
  const auto width = static_cast<size_t>(c.head_dim);
  const auto heads = static_cast<size_t>(c.kv_heads * c.heads_per_kv_head);
  std::vector<float> out;
  for (const auto& [sequence, position] : c.rows) {
    const auto query = vectors(3, sequence, position, c.kv_heads * c.heads_per_kv_head);
    std::vector<double> sums(heads * width, 0);
    std::vector<double> weights(heads, 0);
    const int64_t first = c.window > 0 ? std::max<int64_t>(0, position - c.window + 1) : 0;
    for (int64_t t = first; t <= position; ++t) {
      const auto key = vectors(1, sequence, t, c.kv_heads);
      const auto value = vectors(2, sequence, t, c.kv_heads);
      for (size_t h = 0; h < heads; ++h) {
        const size_t kv = h / static_cast<size_t>(c.heads_per_kv_head) * width;
        double dot = 0;
        for (size_t d = 0; d < width; ++d)
          dot += double{query[h * width + d]} * double{key[kv + d]};
        const double e = std::exp(dot / std::sqrt(static_cast<double>(width)));
        weights[h] += e;
        for (size_t d = 0; d < width; ++d) sums[h * width + d] += e * double{value[kv + d]};
      }
    }
    for (size_t i = 0; i < sums.size(); ++i) {
      out.push_back(static_cast<float>(sums[i] / weights[i / width]));
    }
  }
  return out;
}

TEST_P(Conformance, AttentionAgreesWithDouble) {
  const double bound = bound_of(*open(GetParam()));
  for (const int64_t head_dim : {2, 16, 64, 80, 256}) {
    for (const int64_t block_size : {1, 7, 16}) {
      AttentionCase c{.head_dim = head_dim,
                      .kv_heads = 2,
                      .heads_per_kv_head = 3,
                      .block_size = block_size,
                      .lengths = {1, 5, 130},
                      .rows = {}};
      c.query_last(2);
      EXPECT_LE(nmse(attend(GetParam(), c), attend_in_double(c)), bound)
          << "head_dim " << head_dim << ", block size " << block_size;
    }
  }
  for (int64_t group = 1; group <= 8; ++group) {
    AttentionCase c{
        .head_dim = 16, .kv_heads = 1, .heads_per_kv_head = group, .lengths = {33}, .rows = {}};
    c.query_last(3);
    EXPECT_LE(nmse(attend(GetParam(), c), attend_in_double(c)), bound) << group << " heads";
  }
}

TEST_P(Conformance, AttentionOfPromptsAgreesWithDouble) {
  const double bound = bound_of(*open(GetParam()));
  struct Shape {
    int64_t head_dim, group, block_size, window;
  };
  for (const Shape& s : {Shape{64, 1, 8, 0}, Shape{128, 4, 16, 0}, Shape{128, 3, 128, 0},
                         Shape{64, 8, 32, 50}, Shape{128, 2, 16, 100}}) {
    AttentionCase c{.head_dim = s.head_dim,
                    .kv_heads = 1,
                    .heads_per_kv_head = s.group,
                    .block_size = s.block_size,
                    .window = s.window,
                    .lengths = {1, 150, 37, 131},
                    .rows = {}};
    c.query_last(129);  // a tile, and one row
    EXPECT_LE(nmse(attend(GetParam(), c), attend_in_double(c)), bound)
        << "heads of " << s.head_dim << ", block size " << s.block_size;
  }
}

TEST_P(Conformance, AttentionOfLongRowsAgreesWithDouble) {
  const double bound = bound_of(*open(GetParam()));
  struct Shape {
    int64_t head_dim, kv_heads, group, block_size;
    int32_t longest;
  };
  // So many positions that a device goes round its buffers, in rows of very different lengths, with
  // short runs for each block of a GPU and with long ones.
  const std::vector<Shape> shapes = {{64, 16, 1, 16, 3000},  {128, 16, 1, 16, 3000},
                                     {128, 4, 5, 8, 1500},   {64, 2, 6, 64, 1500},
                                     {128, 2, 7, 128, 1500}, {128, 16, 1, 64, 4500}};
  for (const Shape& s : shapes) {
    if (s.longest > 3000 && !GetParam().starts_with("cuda")) continue;  // what a GPU's blocks share
    AttentionCase c{.head_dim = s.head_dim,
                    .kv_heads = s.kv_heads,
                    .heads_per_kv_head = s.group,
                    .block_size = s.block_size,
                    .lengths = {s.longest, 3, 700, s.longest * 4 / 5, 64, 65, 1200},
                    .rows = {}};
    c.query_last(1);
    // The same for all backends, and slow.
    static std::map<size_t, std::vector<float>> known;
    const auto index = static_cast<size_t>(&s - shapes.data());
    if (!known.contains(index)) known[index] = attend_in_double(c);
    EXPECT_LE(nmse(attend(GetParam(), c), known[index]), bound)
        << "heads of " << s.head_dim << ", block size " << s.block_size << ", up to " << s.longest;
  }
}

TEST_P(Conformance, AttentionWindowsAgreeWithDouble) {
  const double bound = bound_of(*open(GetParam()));
  for (const int64_t window : {1, 2, 17, 127, 128, 129, 300, 1000}) {
    AttentionCase c{
        .head_dim = 16, .block_size = 7, .window = window, .lengths = {301}, .rows = {}};
    c.query_last(301);
    c.rows = {{0, 0}, {0, 16}, {0, 127}, {0, 128}, {0, 129}, {0, 256}, {0, 300}};
    EXPECT_LE(nmse(attend(GetParam(), c), attend_in_double(c)), bound) << "window " << window;
  }
}

TEST_P(Conformance, CountsTheWorkThatWasAsked) {
  Device device(GetParam(), 1, {.rows = 3, .columns = 40});
  const WeightPtr weight = load(device, Matrix::random(1, 5, 40), {40});
  const Owned x(device.ops->activation_dtype(), {3, 40});
  const Owned out(DType::kF32, {3, 5});
  device.ops->matmul(*device.stream, device.arena, x.view(), {{*weight, out.view()}});
  EXPECT_EQ(device.stream->counters.matmul_flops, 2 * 3 * 5 * 40);
  EXPECT_EQ(device.stream->counters.bytes, weight->bytes());
  EXPECT_GT(device.stream->counters.seconds, 0);
}

TEST_P(Conformance, CountsTheCacheOnceForTheRowsOfASequence) {
  Device device(GetParam(), 1, {.rows = 4, .heads = 2, .head_dim = 16});
  const Owned positions({4, 5, 6, 2});
  const Owned sequences({0, 0, 0, 1});
  const Owned table(DType::kI32, {2, 1});
  const Owned keys(device.ops->kv_dtype(), {1, 1, 8, 16});
  const Owned values(device.ops->kv_dtype(), {1, 1, 8, 16});
  const Owned queries(DType::kF32, {4, 2, 16}, std::vector<float>(128, 0.0F));
  const Owned out(device.ops->activation_dtype(), {4, 32});
  device.ops->attention(*device.stream, device.arena, queries.view(),
                        {positions.view(), sequences.view(), table.view()},
                        {keys.view().data, values.view().data, 1, 1, 8, 16}, {.window = 4},
                        out.view());
  EXPECT_EQ(device.stream->counters.attention_flops, 4 * (4 + 4 + 4 + 3) * 16 * 2);
  // Positions 1 to 6 of sequence 0 and 0 to 2 of sequence 1.
  EXPECT_EQ(device.stream->counters.bytes,
            2 * (6 + 3) * 16 * tensor::size_of(device.ops->kv_dtype()));
}

TEST_P(Conformance, PeaksArePositiveAndTheStreamStaysAsItWas) {
  Device device(GetParam(), 2);
  const auto peaks = device.ops->measure_peaks(*device.stream, 1e-3, /*sharers=*/4);
  ASSERT_TRUE(peaks.ok());
  EXPECT_GT(peaks->matmul_flop_s, 0);
  EXPECT_GT(peaks->read_bytes_s, 0);
  EXPECT_EQ(device.stream->counters.bytes, 0);
}

TEST_P(Conformance, ReportsTheErrorOfAReader) {
  Device device(GetParam(), 3);
  std::atomic<int64_t> rows_read = 0;
  const auto weight = device.ops->load_matrix(
      *device.stream, {4, 4, {4}}, {.read = [&](int64_t row, std::span<float>) -> base::Status {
        ++rows_read;
        if (row == 2) return base::fail("row 2 is gone");
        return {};
      }});
  ASSERT_FALSE(weight.ok());
  EXPECT_EQ(weight.error().message, "row 2 is gone");
  EXPECT_EQ(rows_read, 3);
}

TEST_P(Conformance, LoadsEveryRowOnceAndBf16AsItLies) {
  constexpr int64_t kRows = 1000;
  constexpr int64_t kColumns = 3000;  // more than a thread takes at a time
  const std::vector<int64_t> ends = slice_ends(kColumns, 32);
  const std::vector<float> values = random_values(71, kRows * kColumns);
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(tensor::to_bf16(value).bits);
  Device device(GetParam(), 3);
  std::vector<std::atomic<int>> loaded(kRows);
  RowReader reader{.read = [&](int64_t row, std::span<float> out) {
    std::copy_n(values.begin() + row * kColumns, kColumns, out.begin());
    return base::Status();
  }};
  reader.loaded = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) ++loaded[static_cast<size_t>(row)];
  };
  const std::vector<int32_t> some = {0, 15, 16, 500, 999};
  for (const bool plain : {false, true}) {
    if (plain) {
      reader.bf16 = [&](int64_t begin, int64_t end, std::span<uint16_t> out) {
        std::copy(bits.begin() + begin * kColumns, bits.begin() + end * kColumns, out.begin());
        return base::Status();
      };
    }
    const auto weight = device.ops->load_matrix(*device.stream, {kRows, kColumns, ends}, reader);
    for (const std::atomic<int>& times : loaded) ASSERT_EQ(times, plain ? 2 : 1);
    const Owned out(DType::kF32, {std::ssize(some), kColumns});
    device.ops->embed(*device.stream, *weight.value(), Owned(some).view(), 0, 1.0F, out.view());
    std::vector<float> expected;
    for (const int32_t row : some) {
      const auto at = values.begin() + row * kColumns;
      expected.insert(expected.end(), at, at + kColumns);
    }
    EXPECT_LE(nmse(out.values(), expected), 0.0) << (plain ? "bf16" : "f32");
  }
}

TEST(MakeOps, NamesWhatItCanMake) {
  EXPECT_NE(make_ops("gpu", "").error().message.find("cuda, cpu or reference"), std::string::npos);
  EXPECT_NE(make_ops("reference", "avx2").error().message.find("avx2"), std::string::npos);
  EXPECT_NE(make_ops("cpu", "sse9").error().message.find("this machine can run: avx2"),
            std::string::npos);
  EXPECT_EQ(make_ops("cpu", "avx2").value()->name(), "cpu/avx2");
}

class CpuKernels : public ::testing::TestWithParam<const RowKernels*> {};
std::vector<const RowKernels*> row_kernels() {
  std::vector<const RowKernels*> kernels = {&kRowKernelsAvx2};
  if (parse_isa("avx512_bf16").ok()) kernels.push_back(&kRowKernelsAvx512);
  return kernels;
}
INSTANTIATE_TEST_SUITE_P(Isas, CpuKernels, ::testing::ValuesIn(row_kernels()),
                         [](const auto& param) { return param.index == 0 ? "avx2" : "avx512"; });

TEST_P(CpuKernels, ExpErrsByLessThanItsBound) {
  double worst = 0;
  // Every 499th float of [-87, 88], counted down from the largest of each sign.
  for (const float from : {-87.0F, 88.0F}) {
    std::vector<float> x;
    for (uint32_t bits = std::bit_cast<uint32_t>(from); (bits & 0x7fffffffu) > 0x20000000u;
         bits -= 499) {
      x.push_back(std::bit_cast<float>(bits));
    }
    std::vector<float> got(x.size());
    GetParam()->exp(x.data(), std::ssize(x), got.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(double{x[i]});
      const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
      worst = std::max(worst, std::abs(double{got[i]} - exact) / ulp);
    }
  }
  EXPECT_LT(worst, 1.1);
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST_P(CpuKernels, ExpKeepsItsEdges) {
  const std::vector<float> x = {0, -0.0F, -87.5F, -INFINITY, NAN, 1000};
  std::vector<float> got(x.size());
  GetParam()->exp(x.data(), std::ssize(x), got.data());
  EXPECT_EQ(got[0], 1);
  EXPECT_EQ(got[1], 1);
  EXPECT_TRUE(same_bits({got[2], got[3]}, {0.0F, 0.0F}));
  EXPECT_TRUE(std::isnan(got[4]));
  EXPECT_GT(got[5], 1e38F);
  EXPECT_TRUE(std::isfinite(got[5]));
}

TEST_P(CpuKernels, ExpHasTheBitsOfAvx2) {
  std::vector<float> x;
  for (uint32_t i = 0; i < 100000; ++i) {
    x.push_back(200 * base::uniform_unit(base::philox(8, {i, 0, 0, 0})[0]) - 100);
  }
  std::vector<float> got(x.size());
  std::vector<float> expected(x.size());
  GetParam()->exp(x.data(), std::ssize(x), got.data());
  kRowKernelsAvx2.exp(x.data(), std::ssize(x), expected.data());
  EXPECT_TRUE(same_bits(got, expected));
}

TEST_P(CpuKernels, RoundsToBf16AsTheTensorRoomDoes) {
  std::vector<float> x = {0, -0.0F, INFINITY, -INFINITY, 3.4e38F, 1e-40F};
  for (uint32_t i = 0; i < 100000; ++i) {
    x.push_back(std::bit_cast<float>(base::philox(9, {i, 0, 0, 0})[0]));
  }
  std::vector<uint16_t> got(x.size());
  GetParam()->to_bf16(x.data(), std::ssize(x), got.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(got[i], tensor::to_bf16(x[i]).bits) << x[i];
}

}  // namespace
}  // namespace fourfold::backend
