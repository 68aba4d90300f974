#include "load/arrivals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "load/statistics.h"

namespace fourfold::load {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<double> gaps_of(const std::vector<double>& arrivals) {
  std::vector<double> gaps = {arrivals[0]};
  for (size_t i = 1; i < arrivals.size(); ++i) gaps.push_back(arrivals[i] - arrivals[i - 1]);
  return gaps;
}

double squared_variation(const std::vector<double>& values) {
  const double center = mean(values);
  double squares = 0;
  for (const double v : values) squares += (v - center) * (v - center);
  return squares / static_cast<double>(values.size()) / (center * center);
}

TEST(Arrivals, HaveExactlyTheMeanRateAsVllmScalesThem) {
  for (const double burstiness : {0.25, 1.0, 8.0}) {
    const std::vector<double> arrivals =
        draw_arrivals(200, {.rate = 4, .burstiness = burstiness, .seed = 9});
    EXPECT_DOUBLE_EQ(arrivals.back(), 50);
    EXPECT_TRUE(std::is_sorted(arrivals.begin(), arrivals.end()));
    EXPECT_GE(arrivals.front(), 0);
  }
}

// The squared coefficient of variation of a gamma distribution is 1 / shape.
TEST(Arrivals, VaryAsTheirBurstinessSays) {
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    const auto gaps =
        gaps_of(draw_arrivals(20000, {.rate = 10, .burstiness = burstiness, .seed = 5}));
    EXPECT_NEAR(squared_variation(gaps) * burstiness, 1, 0.06) << burstiness;
  }
}

// Kolmogorov-Smirnov against the exponential distribution: 1.63 / sqrt(n) at 1 %.
TEST(Arrivals, OfBurstinessOneAreAPoissonProcess) {
  auto gaps = gaps_of(draw_arrivals(5000, {.rate = 1, .seed = 11}));
  std::sort(gaps.begin(), gaps.end());
  double distance = 0;
  for (size_t i = 0; i < gaps.size(); ++i) {
    const double expected = 1 - std::exp(-gaps[i]);
    distance = std::max(distance, std::abs(expected - (static_cast<double>(i) + 0.5) / 5000));
  }
  EXPECT_LT(distance, 1.63 / std::sqrt(5000));
}

TEST(Arrivals, AreTheSameAtAnotherRateOnlyStretched) {
  const auto slow = draw_arrivals(30, {.rate = 1, .seed = 2});
  const auto fast = draw_arrivals(30, {.rate = 4, .seed = 2});
  for (size_t i = 0; i < slow.size(); ++i) EXPECT_NEAR(slow[i], 4 * fast[i], 1e-9);
  EXPECT_NE(slow, draw_arrivals(30, {.rate = 1, .seed = 3}));
}

TEST(Arrivals, SurviveExtremeBursts) {
  const auto arrivals = draw_arrivals(50, {.rate = 1, .burstiness = 1e-4, .seed = 1});
  for (const double t : arrivals) EXPECT_TRUE(std::isfinite(t));
}

TEST(ScaleToRate, StretchesATraceAndLeavesNothingAsItIs) {
  EXPECT_THAT(scale_to_rate({0, 1, 4}, 1.5), ElementsAre(0, 0.5, 2));
  EXPECT_THAT(scale_to_rate({0, 0}, 2), ElementsAre(0, 0));
  EXPECT_THAT(scale_to_rate({}, 2), IsEmpty());
}

}  // namespace
}  // namespace fourfold::load
