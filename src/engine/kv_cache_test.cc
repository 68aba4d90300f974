#include "engine/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/prefix_index.h"

namespace fourfold::engine {
namespace {

using testing::ElementsAre;
using Tokens = std::vector<TokenId>;

constexpr BlockId kA{0};
constexpr BlockId kB{1};

uint64_t constant_hash(PrefixId, std::span<const TokenId>) { return 7; }

TEST(PrefixIndex, FindsABlockByItsTokensAndTheirPrefixOnly) {
  PrefixIndex index(4, 2, &hash_block);
  const PrefixId first = index.publish(kA, kEmptyPrefix, Tokens{1, 2});
  index.publish(kB, first, Tokens{3, 4});
  EXPECT_EQ(index.find(kEmptyPrefix, Tokens{1, 2}), kA);
  EXPECT_EQ(index.find(first, Tokens{3, 4}), kB);
  EXPECT_FALSE(index.find(kEmptyPrefix, Tokens{3, 4})) << "the same tokens behind another prefix";
  EXPECT_FALSE(index.find(first, Tokens{3, 5}));
}

TEST(PrefixIndex, KeepsTheFirstOfTwoBlocksWithOneContent) {
  PrefixIndex index(4, 2, &hash_block);
  const PrefixId prefix = index.publish(kA, kEmptyPrefix, Tokens{1, 2});
  EXPECT_EQ(index.publish(kB, kEmptyPrefix, Tokens{1, 2}), prefix);
  EXPECT_EQ(index.find(kEmptyPrefix, Tokens{1, 2}), kA);
  EXPECT_FALSE(index.contains(kB));
}

TEST(PrefixIndex, NeverGivesAWrongBlockWhenHashesCollide) {
  PrefixIndex index(4, 2, &constant_hash);
  const PrefixId first = index.publish(kA, kEmptyPrefix, Tokens{1, 2});
  EXPECT_EQ(index.find(kEmptyPrefix, Tokens{1, 2}), kA);
  EXPECT_FALSE(index.find(kEmptyPrefix, Tokens{1, 3}));
  EXPECT_FALSE(index.find(first, Tokens{1, 2}));
  index.publish(kB, kEmptyPrefix, Tokens{5, 6});
  EXPECT_FALSE(index.find(kEmptyPrefix, Tokens{1, 2}));
  EXPECT_EQ(index.find(kEmptyPrefix, Tokens{5, 6}), kB);
}

TEST(PrefixIndex, DoesNotTakeARepublishedPrefixForTheOneItsChildrenFollow) {
  PrefixIndex index(4, 1, &hash_block);
  const PrefixId old = index.publish(kA, kEmptyPrefix, Tokens{1});
  index.publish(kB, old, Tokens{2});
  index.forget(kA);
  const PrefixId other = index.publish(kA, kEmptyPrefix, Tokens{9});
  EXPECT_NE(other, old);
  EXPECT_FALSE(index.find(other, Tokens{2})) << "it was computed behind token 1";
}

TEST(PrefixIndex, FindsNothingAfterForgetOrClear) {
  PrefixIndex index(4, 1, &hash_block);
  index.publish(kA, kEmptyPrefix, Tokens{1});
  index.publish(kB, kEmptyPrefix, Tokens{2});
  index.forget(kA);
  EXPECT_FALSE(index.find(kEmptyPrefix, Tokens{1}));
  index.clear();
  EXPECT_FALSE(index.find(kEmptyPrefix, Tokens{2}));
  EXPECT_FALSE(index.contains(kB));
}

/// A table whose tokens have all been computed.
BlockTable computed_table(KvCache& cache, const Tokens& tokens) {
  BlockTable table;
  EXPECT_TRUE(cache.open(table, tokens, 0));
  cache.publish(table, tokens, static_cast<int32_t>(tokens.size()));
  return table;
}

TEST(KvCache, SharesTheFullBlocksOfACommonPrefix) {
  KvCache cache(8, 2, true, &hash_block);
  const BlockTable first = computed_table(cache, {1, 2, 3, 4, 5});
  BlockTable second;
  EXPECT_EQ(cache.open(second, Tokens{1, 2, 3, 4, 9}, 0), 4);
  EXPECT_THAT(second.blocks, ElementsAre(first.blocks[0], first.blocks[1], BlockId(3)));
  EXPECT_EQ(cache.pool().references(first.blocks[0]), 2);
}

TEST(KvCache, RecomputesTheLastBlockOfAFullyKnownPromptPrivately) {
  KvCache cache(8, 2, true, &hash_block);
  const BlockTable first = computed_table(cache, {1, 2, 3, 4});
  BlockTable second;
  EXPECT_EQ(cache.open(second, Tokens{1, 2, 3, 4}, 0), 2) << "one block of two";
  EXPECT_EQ(second.blocks[0], first.blocks[0]);
  EXPECT_NE(second.blocks[1], first.blocks[1]);
  cache.publish(second, Tokens{1, 2, 3, 4}, 4);
  cache.close(second);
  EXPECT_EQ(cache.pool().references(first.blocks[1]), 1);
}

TEST(KvCache, WithoutReuseSharesOnlyTheBlocksItIsGiven) {
  KvCache cache(8, 2, false, &hash_block);
  const BlockTable first = computed_table(cache, {1, 2, 3, 4, 5});
  BlockTable second;
  const std::span fork = std::span(first.blocks).first(2);
  EXPECT_EQ(cache.open(second, Tokens{1, 2, 3, 4, 5, 6}, 0, fork), 4);
  EXPECT_THAT(second.blocks, ElementsAre(first.blocks[0], first.blocks[1], BlockId(3)));
  cache.close(second);
  EXPECT_EQ(cache.pool().references(first.blocks[0]), 1);
  EXPECT_EQ(cache.open(second, Tokens{1, 2, 3, 4, 5, 6}, 0), 0);
}

TEST(KvCache, PublishesOnlyWhatIsComputedAndKnown) {
  KvCache cache(8, 2, true, &hash_block);
  const Tokens tokens{1, 2, 3, 4, 5};
  BlockTable table;
  ASSERT_TRUE(cache.open(table, tokens, 0));
  cache.publish(table, tokens, 3);
  EXPECT_EQ(cache.known_tokens(tokens), 2) << "the second block has one computed position";
  cache.publish(table, std::span(tokens).first(3), 5);
  EXPECT_EQ(cache.known_tokens(tokens), 2) << "the second block has one known token";
  cache.publish(table, tokens, 4);
  EXPECT_EQ(cache.known_tokens(tokens), 4);
}

TEST(KvCache, FindsAPrefixUntilItsBlocksAreReusedTailFirst) {
  KvCache cache(3, 1, true, &hash_block);
  const Tokens tokens{1, 2, 3, 4};
  BlockTable table = computed_table(cache, {1, 2, 3});
  cache.close(table);
  EXPECT_EQ(cache.pool().free_blocks(), 3);
  EXPECT_EQ(cache.known_tokens(tokens), 3);
  BlockTable other;
  ASSERT_TRUE(cache.open(other, Tokens{9}, 0));
  EXPECT_EQ(cache.known_tokens(tokens), 2);
}

TEST(KvCache, CountsRevivedBlocksAsTaken) {
  KvCache cache(3, 1, true, &hash_block);
  BlockTable table = computed_table(cache, {1, 2});
  cache.close(table);
  EXPECT_FALSE(cache.open(table, Tokens{1, 2, 3, 4}, 0)) << "2 revived and 2 new of 3";
  EXPECT_TRUE(table.blocks.empty());
  EXPECT_EQ(cache.pool().free_blocks(), 3);
  EXPECT_EQ(cache.open(table, Tokens{1, 2, 3}, 0), 2);
}

TEST(KvCache, OpensOnlyWithTheHeadroomAskedFor) {
  KvCache cache(3, 1, true, &hash_block);
  BlockTable table;
  EXPECT_FALSE(cache.open(table, Tokens{1, 2}, 2));
  EXPECT_TRUE(cache.open(table, Tokens{1, 2}, 1));
  EXPECT_EQ(cache.peak_used(), 2);
}

TEST(KvCache, ExtendsATableByABlockWhenItIsFullAndOneIsFree) {
  KvCache cache(2, 2, false, &hash_block);
  BlockTable table;
  ASSERT_TRUE(cache.open(table, Tokens{1}, 0));
  EXPECT_TRUE(cache.extend(table, 2));
  EXPECT_EQ(table.blocks.size(), 1U);
  EXPECT_TRUE(cache.extend(table, 3));
  EXPECT_EQ(table.blocks.size(), 2U);
  EXPECT_FALSE(cache.extend(table, 5));
}

TEST(KvCache, NeverFindsAnythingWithoutReuse) {
  KvCache cache(4, 1, false, &hash_block);
  BlockTable table = computed_table(cache, {1, 2});
  EXPECT_EQ(cache.known_tokens(Tokens{1, 2, 3}), 0);
  cache.close(table);
  EXPECT_EQ(cache.open(table, Tokens{1, 2, 3}, 0), 0);
}

}  // namespace
}  // namespace fourfold::engine
