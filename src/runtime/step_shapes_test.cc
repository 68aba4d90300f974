#include "runtime/step_shapes.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace fourfold::runtime {
namespace {

TEST(StepShapes, RowsAreFewAndAtMostAQuarterMore) {
  constexpr int64_t kMost = 300;
  const std::vector<int64_t> all = all_repeated_rows(kMost);
  EXPECT_EQ(all.front(), kMost);
  EXPECT_EQ(all.back(), 1);
  EXPECT_LE(all.size(), 32U);
  for (int64_t rows = 1; rows <= kMost; ++rows) {
    const int64_t padded = repeated_rows(rows, kMost);
    EXPECT_GE(padded, rows);
    EXPECT_LE(padded, kMost);
    EXPECT_LE(4 * (padded - rows), rows) << rows;
    EXPECT_EQ(repeated_rows(padded, kMost), padded);
    EXPECT_TRUE(std::find(all.begin(), all.end(), padded) != all.end()) << rows;
  }
}

TEST(StepShapes, WidthsDoubleUpToTheLongestSequence) {
  const engine::ExecutorLimits limits{.block_size = 16, .max_positions = 5000};
  EXPECT_EQ(all_repeated_widths(limits), (std::vector<int64_t>{313, 256, 128, 64}));
  const std::vector<int64_t> all = all_repeated_widths(limits);
  for (int64_t blocks = 1; blocks <= 313; ++blocks) {
    const int64_t width = repeated_width(blocks, limits);
    EXPECT_GE(width, blocks);
    EXPECT_TRUE(std::find(all.begin(), all.end(), width) != all.end()) << blocks;
  }
  for (const int32_t block_size : {1, 16, 64}) {
    for (int32_t widest = 1; widest <= 1500; ++widest) {
      const engine::ExecutorLimits any{.block_size = block_size,
                                       .max_positions = widest * block_size};
      const std::vector<int64_t> widths = all_repeated_widths(any);
      for (int64_t blocks = 1; blocks <= widest; ++blocks) {
        ASSERT_TRUE(std::binary_search(widths.rbegin(), widths.rend(), repeated_width(blocks, any)))
            << blocks << " of " << widest << " blocks of " << block_size;
      }
    }
  }
  const engine::ExecutorLimits small{.block_size = 16, .max_positions = 100};
  EXPECT_EQ(all_repeated_widths(small), (std::vector<int64_t>{7}));
}

}  // namespace
}  // namespace fourfold::runtime
