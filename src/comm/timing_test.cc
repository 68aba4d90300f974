#include "comm/timing.h"

#include <gtest/gtest.h>

#include <array>

namespace fourfold::comm {
namespace {

TEST(Timing, TellsEachSizeBesideItsCeiling) {
  const std::array<int64_t, 2> sizes{1024, 1 << 20};
  for (const int ranks : {2, 3}) {
    const auto timings = time_all_reduce(ranks, sizes, Wire::kBF16, 0.001);
    ASSERT_EQ(timings.size(), sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) {
      EXPECT_EQ(timings[i].bytes, sizes[i]);
      EXPECT_GT(timings[i].calls, 0);
      EXPECT_GT(timings[i].best_us, 0);
      EXPECT_GE(timings[i].median_us, timings[i].best_us);
      EXPECT_GT(timings[i].wait_share, 0);
      EXPECT_LE(timings[i].wait_share, 1);
      EXPECT_GT(timings[i].ceiling_us, 0);
    }
    EXPECT_GT(timings[1].ceiling_us, timings[0].ceiling_us);
  }
}

}  // namespace
}  // namespace fourfold::comm
