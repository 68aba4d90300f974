#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/ops.h"
#include "backend/ops_test_support.h"
#include "backend/slices.h"

namespace fourfold::backend {
namespace {

using testing::Device;
using testing::load;
using testing::Matrix;
using testing::Owned;
using testing::random_values;

constexpr double kF32Bound = 1e-12;
constexpr double kBF16Bound = 1e-5;

class ExpertOps : public ::testing::TestWithParam<std::string> {};

Matrix matrix(uint64_t seed, int64_t rows, int64_t columns) {
  return {rows, columns, random_values(seed, rows * columns)};
}

/// The first rows of x times the first matrix, the next times the second, ...
std::vector<float> grouped(const std::string& backend, const Matrix& x,
                           const std::vector<int32_t>& ends, const std::vector<Matrix>& w,
                           const std::vector<int64_t>& slices, int threads = 1) {
  Device device(backend, threads,
                {.rows = x.rows, .columns = x.columns, .groups = std::ssize(ends)});
  std::vector<WeightPtr> weights;
  std::vector<const Weight*> pointers;
  for (const Matrix& each : w) {
    weights.push_back(load(device, each, slices));
    pointers.push_back(weights.back().get());
  }
  const Owned in(device.ops->activation_dtype(), {x.rows, x.columns}, x.values);
  const Owned out(DType::kF32, {x.rows, w.front().rows});
  const Owned again(DType::kF32, {x.rows, w.front().rows});
  device.ops->grouped_matmul(*device.stream, device.arena, in.view(), ends,
                             {{pointers, out.view()}, {pointers, again.view()}});
  EXPECT_EQ(out.values(), again.values()) << "two targets of the same weights";
  return out.values();
}

TEST_P(ExpertOps, AGroupedRowHasTheBitsOfItsMatmulAlone) {
  const std::vector<std::vector<int32_t>> cases = {
      {5},                       // one group
      {0, 0, 1},                 // a single row, in the last group
      {1, 2, 3, 4, 5, 6, 7, 8},  // a row each
      {0, 17, 17, 18, 18, 163},  // empty groups between others, more than a task of rows
      {40, 40},                  // all rows in the first
      {0, 0},                    // none at all
  };
  for (const std::vector<int32_t>& ends : cases) {
    const int64_t n = 50;
    const int64_t k = 72;
    const std::vector<int64_t> slices = testing::slice_ends(k, 32);
    const Matrix x = matrix(1, ends.back(), k);
    std::vector<Matrix> w;
    for (size_t g = 0; g < ends.size(); ++g) w.push_back(matrix(10 + g, n, k));
    std::vector<float> expected;
    for (size_t g = 0; g < ends.size(); ++g) {
      for (int64_t row = g == 0 ? 0 : ends[g - 1]; row < ends[g]; ++row) {
        const auto alone = testing::multiply(GetParam(), x.part(row, row + 1, 0, k), w[g], slices);
        expected.insert(expected.end(), alone.begin(), alone.end());
      }
    }
    const std::vector<float> got = grouped(GetParam(), x, ends, w, slices);
    if (GetParam().ends_with("/fast")) {
      ASSERT_EQ(got.size(), expected.size());
      if (got.empty()) continue;
      EXPECT_LE(testing::nmse(got, expected), kF32Bound);
    } else {
      EXPECT_TRUE(testing::same_bits(got, expected)) << ends.size() << " groups";
      EXPECT_TRUE(testing::same_bits(grouped(GetParam(), x, ends, w, slices, 3), expected));
    }
  }
}

/// In invariant numerics only; fast numerics promises no bits.
class InvariantExpertOps : public ExpertOps {};

TEST_P(InvariantExpertOps, RanksThatSplitAnExpertsWidthSumToTheOneRankResult) {
  struct Size {
    int64_t k, granule;
  };
  // With 70 columns some slices are empty.
  for (const Size& size : {Size{1000, 32}, Size{14 * 80, 80}, Size{70, 32}}) {
    const std::vector<int32_t> ends = {1, 1, 20, 23};
    const int64_t n = 33;
    const Matrix x = matrix(1, ends.back(), size.k);
    std::vector<Matrix> w;
    for (size_t g = 0; g < ends.size(); ++g) w.push_back(matrix(10 + g, n, size.k));
    const std::vector<int64_t> slices = testing::slice_ends(size.k, size.granule);
    const std::vector<float> one = grouped(GetParam(), x, ends, w, slices);
    for (const int64_t etp : {1, 2, 4, 8}) {
      std::vector<float> sums;
      int64_t begin = 0;
      for (int64_t rank = 0; rank < etp; ++rank) {
        const int64_t end = slices[static_cast<size_t>((rank + 1) * kMaxSlices / etp - 1)];
        std::vector<Matrix> part;
        for (const Matrix& each : w) part.push_back(each.part(0, n, begin, end));
        const std::vector<float> partial =
            grouped(GetParam(), x.part(0, x.rows, begin, end), ends, part,
                    testing::slice_ends(size.k, size.granule, rank * kMaxSlices / etp,
                                        (rank + 1) * kMaxSlices / etp));
        sums.insert(sums.end(), partial.begin(), partial.end());
        begin = end;
      }
      join_slices(sums.data(), etp, x.rows * n, x.rows * n);
      sums.resize(one.size());
      EXPECT_TRUE(testing::same_bits(sums, one)) << "etp " << etp << ", K " << size.k;
    }
  }
}

TEST_P(ExpertOps, CountsTheWeightsOfGroupsWithRowsOnly) {
  const Matrix x = matrix(1, 3, 64);
  Device device(GetParam(), 1, {.rows = 3, .columns = 64, .groups = 3});
  std::vector<WeightPtr> weights;
  std::vector<const Weight*> pointers;
  for (uint64_t g = 0; g < 3; ++g) {
    weights.push_back(load(device, matrix(g, 32, 64), {64}));
    pointers.push_back(weights.back().get());
  }
  const Owned in(device.ops->activation_dtype(), {3, 64}, x.values);
  const Owned out(DType::kF32, {3, 32});
  const OpCounters before = device.stream->counters;
  device.ops->grouped_matmul(*device.stream, device.arena, in.view(), std::vector<int32_t>{1, 1, 3},
                             {{pointers, out.view()}});
  EXPECT_EQ(device.stream->counters.bytes - before.bytes, 2 * weights[0]->bytes());
  EXPECT_EQ(device.stream->counters.matmul_flops - before.matmul_flops, 2 * 3 * 32 * 64);
}

struct Routed {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Routed route(const std::string& backend, const std::vector<float>& logits, int64_t experts,
             const Routing& routing, const std::vector<float>& bias = {}) {
  Device device(backend, 2, {});
  const int64_t rows = std::ssize(logits) / experts;
  const WeightPtr added = bias.empty() ? nullptr : device.ops->load_vector(bias).value();
  const Owned choices(DType::kI32, {rows, routing.top_k});
  const Owned weights(DType::kF32, {rows, routing.top_k});
  device.ops->route(*device.stream, Owned(DType::kF32, {rows, experts}, logits).view(), added.get(),
                    routing, choices.view(), weights.view());
  const int32_t* chosen = choices.view().i32();
  return {std::vector<int32_t>(chosen, chosen + rows * routing.top_k), weights.values()};
}

std::vector<double> softmax(const float* logits, int64_t n) {
  std::vector<double> out(static_cast<size_t>(n));
  double sum = 0;
  for (size_t i = 0; i < out.size(); ++i) sum += out[i] = std::exp(double{logits[i]});
  for (double& x : out) x /= sum;
  return out;
}

TEST_P(ExpertOps, RoutesToTheLargestScoresBestFirst) {
  for (const int64_t experts : {1, 2, 8, 60, 128}) {
    for (const int64_t rows : {0, 1, 37}) {
      const std::vector<float> logits = random_values(3, rows * experts);
      Routing routing{.top_k = std::min<int64_t>(experts, 6), .scale = 2.5F};
      for (const bool renormalise : {false, true}) {
        routing.renormalise = renormalise;
        const Routed got = route(GetParam(), logits, experts, routing);
        for (int64_t m = 0; m < rows; ++m) {
          const float* row = logits.data() + m * experts;
          std::vector<int32_t> order(static_cast<size_t>(experts));
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(),
                           [&](int32_t a, int32_t b) { return row[a] > row[b]; });
          const std::vector<double> scores = softmax(row, experts);
          double sum = 0;
          for (int64_t i = 0; i < routing.top_k; ++i)
            sum += scores[static_cast<size_t>(order[static_cast<size_t>(i)])];
          for (int64_t i = 0; i < routing.top_k; ++i) {
            const auto at = static_cast<size_t>(m * routing.top_k + i);
            const auto expert = static_cast<size_t>(order[static_cast<size_t>(i)]);
            ASSERT_EQ(got.experts[at], order[static_cast<size_t>(i)]) << "row " << m;
            EXPECT_NEAR(got.weights[at], 2.5 * scores[expert] / (renormalise ? sum : 1.0), 1e-5);
          }
        }
      }
    }
  }
}

TEST_P(ExpertOps, ATieGoesToTheLowerIndex) {
  const Routed got = route(GetParam(), {1, 2, 2, 0, 2}, 5, {.top_k = 4});
  EXPECT_EQ(got.experts, (std::vector<int32_t>{1, 2, 4, 0}));
}

TEST_P(ExpertOps, ABiasChoosesButDoesNotWeigh) {
  const Routing routing{.scoring = Routing::Scoring::kSigmoid, .top_k = 2};
  const Routed got = route(GetParam(), {0, 1, 2, 3}, 4, routing, {5, 0, 0, 0});
  EXPECT_EQ(got.experts, (std::vector<int32_t>{0, 3}));
  EXPECT_NEAR(got.weights[0], 0.5, 1e-6);
  EXPECT_NEAR(got.weights[1], 1 / (1 + std::exp(-3.0)), 1e-6);
}

TEST_P(ExpertOps, ChoosesAmongTheBestGroupsOnly) {
  // The third group has the best expert, the first and the second the better pairs.
  const std::vector<float> logits = {1, 1.5F, 0, 2, 1, 0, 2.2F, -5, -5};
  const Routing routing{
      .scoring = Routing::Scoring::kSigmoid, .top_k = 3, .groups = 3, .top_groups = 2};
  EXPECT_EQ(route(GetParam(), logits, 9, routing).experts, (std::vector<int32_t>{3, 1, 0}));
}

TEST_P(ExpertOps, RoutesRowsOfNansSomewhereLegal) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Routing routing{.top_k = 2, .groups = 2, .top_groups = 1};
  const Routed got = route(GetParam(), {nan, nan, nan, nan}, 4, routing);
  EXPECT_EQ(got.experts, (std::vector<int32_t>{0, 1}));
}

TEST_P(ExpertOps, ChoosesDifferentExpertsWhateverTheLogits) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {nan, 1, 2,    3,    4,    5,     //
                                     1,   2, nan,  3,    4,    5,     //
                                     inf, 1, inf,  2,    nan,  3,     //
                                     1,   2, 3,    -inf, -inf, -inf,  //
                                     nan, 0, -inf, nan,  inf,  -inf};
  for (const auto scoring : {Routing::Scoring::kSoftmax, Routing::Scoring::kSigmoid}) {
    for (const int64_t top_groups : {1, 2, 3}) {
      const Routing routing{.scoring = scoring,
                            .top_k = 2 * top_groups,
                            .groups = 3,
                            .top_groups = top_groups,
                            .renormalise = true};
      std::vector<int32_t> experts =
          route(GetParam(), logits, 6, routing, {0, 0, nan, 0, inf, 0}).experts;
      for (auto row = experts.begin(); row != experts.end(); row += routing.top_k) {
        std::sort(row, row + routing.top_k);
        EXPECT_EQ(std::adjacent_find(row, row + routing.top_k), row + routing.top_k);
        EXPECT_GE(row[0], 0);
        EXPECT_LT(row[routing.top_k - 1], 6);
      }
    }
  }
}

TEST_P(ExpertOps, ARowIsRoutedAsItIsAlone) {
  const int64_t experts = 64;
  const std::vector<float> logits = random_values(5, 300 * experts);
  const Routing routing{.top_k = 8, .renormalise = true};
  const Routed all = route(GetParam(), logits, experts, routing);
  for (const int64_t row : {0, 129, 299}) {
    const auto begin = logits.begin() + row * experts;
    const Routed alone = route(GetParam(), {begin, begin + experts}, experts, routing);
    for (int64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(alone.experts[static_cast<size_t>(i)],
                all.experts[static_cast<size_t>(row * 8 + i)]);
      EXPECT_EQ(alone.weights[static_cast<size_t>(i)],
                all.weights[static_cast<size_t>(row * 8 + i)]);
    }
  }
}

TEST_P(ExpertOps, CombinesSlotsInTheirOrder) {
  for (const int64_t slots : {1, 2, 6}) {
    for (const int64_t rows : {0, 1, 19}) {
      const int64_t width = 37;
      Device device(GetParam(), 2, {});
      const std::vector<float> y = random_values(1, rows * slots * width);
      const std::vector<float> weights = random_values(2, rows * slots);
      const Owned out(DType::kF32, {rows, width});
      device.ops->combine_slots(
          *device.stream, Owned(device.ops->activation_dtype(), {rows * slots, width}, y).view(),
          Owned(DType::kF32, {rows, slots}, weights).view(), out.view());
      std::vector<float> expected(static_cast<size_t>(rows * width));
      for (int64_t m = 0; m < rows; ++m) {
        for (int64_t i = 0; i < width; ++i) {
          volatile float sum = 0;  // each product and each sum rounded
          for (int64_t slot = 0; slot < slots; ++slot) {
            const volatile float product = weights[static_cast<size_t>(m * slots + slot)] *
                                           y[static_cast<size_t>((m * slots + slot) * width + i)];
            sum = sum + product;
          }
          expected[static_cast<size_t>(m * width + i)] = sum;
        }
      }
      EXPECT_TRUE(testing::same_bits(out.values(), expected)) << slots << " slots, " << rows;
    }
  }
}

TEST_P(ExpertOps, GathersRowsOfTheActivationType) {
  Device device(GetParam(), 2, {});
  const DType dtype = device.ops->activation_dtype();
  const std::vector<float> x = random_values(1, 5 * 33);
  const std::vector<int32_t> indices = {4, 0, 0, 2};
  const Owned out(dtype, {4, 33});
  device.ops->gather_rows(*device.stream, Owned(dtype, {5, 33}, x).view(), Owned(indices).view(),
                          out.view());
  std::vector<float> expected;
  for (const int32_t i : indices) {
    expected.insert(expected.end(), x.begin() + i * 33, x.begin() + (i + 1) * 33);
  }
  EXPECT_EQ(out.values(), expected);
}

TEST_P(ExpertOps, AddsABiasGatesRowsAndRounds) {
  Device device(GetParam(), 2, {});
  const std::vector<float> x = random_values(1, 7 * 33);
  const std::vector<float> bias = random_values(2, 33);
  const std::vector<float> gate = random_values(3, 7);
  const Owned rows(DType::kF32, {7, 33}, x);
  const WeightPtr added = device.ops->load_vector(bias).value();
  device.ops->add_bias(*device.stream, rows.view(), *added);
  device.ops->gate_rows(*device.stream, rows.view(), Owned(DType::kF32, {7, 1}, gate).view());
  std::vector<float> expected;
  for (size_t i = 0; i < x.size(); ++i) {
    const double factor = 1 / (1 + std::exp(-double{gate[i / 33]}));
    expected.push_back(static_cast<float>((double{x[i]} + bias[i % 33]) * factor));
  }
  EXPECT_LE(testing::nmse(rows.values(), expected), kF32Bound);

  const Owned rounded(device.ops->activation_dtype(), {7, 33});
  device.ops->to_activation(*device.stream, rows.view(), rounded.view());
  EXPECT_LE(testing::nmse(rounded.values(), rows.values()), kBF16Bound);
  if (device.ops->activation_dtype() == DType::kBF16) {
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(rounded.values()[i], testing::rounded_to_bf16(rows.values()[i]));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, ExpertOps,
                         ::testing::ValuesIn(testing::backends_in_both_numerics()),
                         testing::name_of_backend);
INSTANTIATE_TEST_SUITE_P(Backends, InvariantExpertOps,
                         ::testing::ValuesIn(testing::available_backends()),
                         testing::name_of_backend);

}  // namespace
}  // namespace fourfold::backend
