#include "engine/block_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::engine {
namespace {

using testing::ElementsAre;

constexpr BlockId kA{0};
constexpr BlockId kB{1};
constexpr BlockId kC{2};

TEST(BlockPool, HandsOutTheBlockThatHasBeenFreeForLongest) {
  BlockPool pool(3);
  EXPECT_THAT((std::vector{pool.allocate(), pool.allocate(), pool.allocate()}),
              ElementsAre(kA, kB, kC));
  pool.release(kB, /*keep_content=*/true);
  pool.release(kC, /*keep_content=*/true);
  pool.release(kA, /*keep_content=*/true);
  EXPECT_THAT(pool.free_list(), ElementsAre(kB, kC, kA));
  EXPECT_EQ(pool.allocate(), kB);
}

TEST(BlockPool, ReusesBlocksOfNoWorthBeforeThoseThatKeepContent) {
  BlockPool pool(3);
  for (int i = 0; i < 3; ++i) pool.allocate();
  pool.release(kA, /*keep_content=*/true);
  pool.release(kB, /*keep_content=*/false);
  pool.release(kC, /*keep_content=*/true);
  EXPECT_THAT(pool.free_list(), ElementsAre(kB, kA, kC));
}

TEST(BlockPool, FreesABlockWithItsLastReference) {
  BlockPool pool(1);
  pool.allocate();
  pool.share(kA);
  EXPECT_EQ(pool.references(kA), 2);
  pool.release(kA, true);
  EXPECT_EQ(pool.free_blocks(), 0);
  pool.release(kA, true);
  EXPECT_EQ(pool.free_blocks(), 1);
}

TEST(BlockPool, TakesAFreeBlockOutOfTheLineWhenItIsSharedAgain) {
  BlockPool pool(3);
  pool.share(kB);
  EXPECT_THAT(pool.free_list(), ElementsAre(kA, kC));
  EXPECT_EQ(pool.references(kB), 1);
}

TEST(BlockPoolDeathTest, ChecksThatFreeBlocksAreNotReleasedAndUsedOnesNotAllocated) {
  BlockPool pool(1);
  EXPECT_DEATH(pool.release(kA, true), "block 0 is free already");
  pool.allocate();
  EXPECT_DEATH(pool.allocate(), "all 1 blocks are in use");
}

}  // namespace
}  // namespace fourfold::engine
