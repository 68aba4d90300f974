#include "runtime/layer_times.h"

#include <gtest/gtest.h>

namespace fourfold::runtime {
namespace {

TEST(LayerTimes, NothingIsKnownAtFirst) { EXPECT_EQ(LayerTimes().typical(1), 0); }

TEST(LayerTimes, IsTheMedianOfStepsOfThatSize) {
  LayerTimes times;
  for (const int64_t ns : {10, 1'000'000, 12, 11, 9}) times.add(300, ns);
  times.add(1, 2);
  EXPECT_EQ(times.typical(256), 11);
  EXPECT_EQ(times.typical(511), 11);
  EXPECT_EQ(times.typical(1), 2);
}

TEST(LayerTimes, ForgetsOldSteps) {
  LayerTimes times;
  for (int i = 0; i < 100; ++i) times.add(1, 5);
  for (int i = 0; i < 15; ++i) times.add(1, 7);
  EXPECT_EQ(times.typical(1), 7);
}

TEST(LayerTimes, ScalesAnotherSizeUpButNeverDown) {
  LayerTimes times;
  times.add(4, 10);
  EXPECT_EQ(times.typical(32), 80);
  EXPECT_EQ(times.typical(1), 10);
}

}  // namespace
}  // namespace fourfold::runtime
