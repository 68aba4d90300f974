#include "runtime/restart_delays.h"

#include <gtest/gtest.h>

namespace fourfold::runtime {
namespace {

TEST(RestartDelays, DoubleFromNoneToTheLongest) {
  RestartDelays delays({.longest_delay_s = 30, .stable_s = 60});
  for (const double expected : {0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0}) {
    EXPECT_EQ(delays.next_s(/*lived_s=*/59), expected);
  }
}

TEST(RestartDelays, BeginAnewOnceTheGroupWasStable) {
  RestartDelays delays({.longest_delay_s = 30, .stable_s = 60});
  EXPECT_EQ(delays.next_s(0), 0);
  EXPECT_EQ(delays.next_s(0), 1);
  EXPECT_EQ(delays.next_s(60), 0);
  EXPECT_EQ(delays.next_s(0), 1);
}

}  // namespace
}  // namespace fourfold::runtime
