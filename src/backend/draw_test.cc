#include "backend/draw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/ops_test_support.h"

namespace fourfold::backend {
namespace {

using namespace testing;  // NOLINT: the support of these tests

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(DrawWeight, IsTheExponentialInFixedPoint) {
  EXPECT_EQ(draw_weight(3, 3, 1), kDrawOne);
  EXPECT_EQ(draw_weight(kInfinity, kInfinity, 1), kDrawOne);
  EXPECT_EQ(draw_weight(-kInfinity, -kInfinity, 1), kDrawOne);
  EXPECT_EQ(draw_weight(3, kInfinity, 1), 0U);
  EXPECT_EQ(draw_weight(-kInfinity, 3, 1), 0U);
  EXPECT_EQ(draw_weight(-kInfinity, 3, 0), 0U);
  uint64_t last = kDrawOne;
  for (float x = 0; x > -40; x -= 0.003F) {
    const uint64_t weight = draw_weight(x, 0, 1);
    const double exact = std::exp(double{x}) * static_cast<double>(kDrawOne);
    EXPECT_NEAR(static_cast<double>(weight), exact, 1 + exact * 0x1p-21) << x;
    EXPECT_LE(weight, last) << x;
    last = weight;
  }
  EXPECT_NEAR(static_cast<double>(draw_weight(1, 2, 1 / 0.7F)), std::exp(-1 / 0.7) * 0x1p40,
              0x1p20);
}

TEST(DrawKey, OrdersByFallingValueThenById) {
  std::vector<float> falling = {kInfinity, 7, 0x1p-140F, 0, -0x1p-140F, -1, -kInfinity};
  uint64_t last = 0;
  for (const float value : falling) {
    EXPECT_LT(last, draw_key(value, 0)) << value;
    last = draw_key(value, 9);
    EXPECT_LT(draw_key(value, 0), last);
    EXPECT_EQ(value_of_key(last), value);
  }
  EXPECT_EQ(draw_key(draw_value(-0.0F), 1), draw_key(0.0F, 1));
}

/// The tokens of a row that are kept, found by sorting all of them.
std::vector<bool> kept_by_sorting(const std::vector<float>& logits, const Draw& draw) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  const float max = logits[order[0]];
  const auto weight = [&](size_t i) { return draw_weight(logits[i], max, 1 / draw.temperature); };
  std::erase_if(order, [&](size_t i) { return weight(i) < least_weight(draw.min_p); });
  if (draw.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(draw.top_k)));
  if (draw.top_p < 1) {
    const auto add = [&](uint64_t sum, size_t i) { return sum + weight(i); };
    const uint64_t mass = std::accumulate(order.begin(), order.end(), uint64_t{0}, add);
    uint64_t reached = 0;
    size_t count = 0;
    while (reached < wanted_weight(draw.top_p, mass)) reached += weight(order[count++]);
    order.resize(count);
  }
  std::vector<bool> kept(logits.size());
  for (const size_t i : order) kept[i] = weight(i) > 0;
  return kept;
}

std::vector<float> row_of(size_t width, uint64_t seed, float spread, int steps) {
  std::vector<float> row = random_values(seed, static_cast<int64_t>(width));
  // A few different values only: ties.
  for (float& value : row)
    value = std::round(value * spread * static_cast<float>(steps)) / static_cast<float>(steps);
  return row;
}

TEST(DrawToken, DrawsEachKeptTokenWhereItsShareOfTheRandomNumbersBegins) {
  for (const Draw& cut :
       {Draw{.temperature = 1}, Draw{.temperature = 0.7F, .top_k = 11},
        Draw{.temperature = 2, .top_p = 0.8F}, Draw{.temperature = 1, .min_p = 0.2F},
        Draw{.temperature = 1, .top_p = 0.99F, .top_k = 7},
        Draw{.temperature = 3, .top_p = 0.5F, .min_p = 0.1F, .top_k = 60}}) {
    const std::vector<float> logits = row_of(300, 5, 4, 8);
    const std::vector<bool> kept = kept_by_sorting(logits, cut);
    const float max = *std::max_element(logits.begin(), logits.end());
    uint64_t mass = 0;
    for (size_t i = 0; i < kept.size(); ++i) {
      if (kept[i]) mass += draw_weight(logits[i], max, 1 / cut.temperature);
    }
    long double reached = 0;
    for (size_t i = 0; i < kept.size(); ++i) {
      if (!kept[i]) continue;
      // Just behind the share of the tokens before it.
      const auto random = static_cast<uint64_t>(std::ceil(reached / mass * 0x1p64L)) + 1;
      Draw draw = cut;
      draw.random_low = static_cast<uint32_t>(random);
      draw.random_high = static_cast<uint32_t>(random >> 32);
      EXPECT_EQ(draw_token(logits, draw), static_cast<int32_t>(i));
      reached += draw_weight(logits[i], max, 1 / cut.temperature);
    }
  }
}

class DrawRows : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Backends, DrawRows, ::testing::ValuesIn(backends_in_both_numerics()),
                         name_of_backend);

TEST_P(DrawRows, TopPKeepsNothingThatTopKDropped) {
  // The second largest ends what top_p keeps, and shares its first digits with those below it.
  Device device(GetParam());
  std::vector<float> row(47, -1.0F);
  row[11] = 4.984375F;
  row[8] = 3.567046F;
  row[25] = 3.5625F;
  row[37] = 3.5F;
  for (uint32_t i = 0; i < 40; ++i) {
    const Draw draw{
        .temperature = 1.17F, .top_p = 0.87F, .top_k = 2, .random_high = i * (~0U / 40)};
    const auto words = std::bit_cast<DrawWords>(draw);
    const Owned draws(std::vector<int32_t>(words.begin(), words.end()));
    const Owned out(DType::kI32, {1});
    device.ops->draw_rows(*device.stream, Owned(DType::kF32, {1, 47}, row).view(),
                          draws.view().reshape({1, kDrawWords}), out.view());
    device.stream->synchronize();
    EXPECT_TRUE(out.view().i32()[0] == 11 || out.view().i32()[0] == 8) << out.view().i32()[0];
  }
}

TEST_P(DrawRows, DrawWhatOneThreadDraws) {
  Device device(GetParam());
  const std::vector<Draw> cuts = {
      {.temperature = 0},
      {.temperature = 1},
      {.temperature = 0.6F, .top_k = 1},
      {.temperature = 0.6F, .top_k = 50},
      {.temperature = 1, .top_p = 0.9F},
      {.temperature = 1, .top_p = 0.01F},
      {.temperature = 1, .min_p = 0.3F},
      {.temperature = 1.5F, .top_p = 0.95F, .min_p = 0.01F, .top_k = 1000},
      {.temperature = 1, .top_p = 0.9F, .top_k = 2},
      {.temperature = 1e-30F, .top_p = 0.5F},
      {.temperature = 1e30F, .top_p = 0.5F},
  };
  for (const auto& [width, spread, steps] : {std::tuple{size_t{1}, 1.0F, 100},
                                             {3, 2.0F, 1},
                                             {1000, 3.0F, 4},
                                             {40'000, 3.0F, 1'000'000},
                                             {40'000, 0.0F, 1}}) {
    std::vector<float> logits;
    std::vector<int32_t> words;
    std::vector<int32_t> expected;
    for (size_t i = 0; i < 2 * cuts.size(); ++i) {
      std::vector<float> row = row_of(width, 7 + i, spread, steps);
      if (i % 5 == 4) row[width / 2] = NAN;
      if (i % 7 == 6) row[width / 3] = kInfinity;
      Draw draw = cuts[i % cuts.size()];
      draw.random_low = 0x12345678U * static_cast<uint32_t>(i);
      draw.random_high = i == 3 ? ~0U : 0x9e3779b9U * static_cast<uint32_t>(i);
      expected.push_back(draw_token(row, draw));
      logits.insert(logits.end(), row.begin(), row.end());
      const auto of_row = std::bit_cast<DrawWords>(draw);
      words.insert(words.end(), of_row.begin(), of_row.end());
    }
    const auto rows = std::ssize(expected);
    const Owned x(DType::kF32, {rows, static_cast<int64_t>(width)}, logits);
    const Owned out(DType::kI32, {rows});
    device.ops->draw_rows(*device.stream, x.view(), Owned(words).view().reshape({rows, kDrawWords}),
                          out.view());
    device.stream->synchronize();
    EXPECT_EQ(std::vector<int32_t>(out.view().i32(), out.view().i32() + rows), expected)
        << width << " logits";
  }
}

}  // namespace
}  // namespace fourfold::backend
