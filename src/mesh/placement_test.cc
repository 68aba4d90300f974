#include "mesh/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "mesh/mesh.h"

namespace fourfold::mesh {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string error_of(const ExpertPlacement& placement, int64_t experts, int ep) {
  const base::Status status = placement.check(experts, ep);
  return status.ok() ? "legal" : status.error().message;
}

TEST(ExpertPlacement, LinearGivesEachShardNeighbours) {
  const ExpertPlacement placement;
  EXPECT_EQ(placement, ExpertPlacement::linear());
  EXPECT_EQ(error_of(placement, 8, 2), "legal");
  EXPECT_THAT(placement.experts_of(8, 2, 0), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(placement.experts_of(8, 2, 1), ElementsAre(4, 5, 6, 7));
}

TEST(ExpertPlacement, RoundRobinDealsThemOut) {
  const ExpertPlacement placement = ExpertPlacement::round_robin();
  EXPECT_EQ(error_of(placement, 6, 3), "legal");
  EXPECT_THAT(placement.experts_of(6, 3, 0), ElementsAre(0, 3));
  EXPECT_THAT(placement.experts_of(6, 3, 2), ElementsAre(2, 5));
}

TEST(ExpertPlacement, ListsGiveShardsDifferentNumbersOfExpertsInRisingOrder) {
  const ExpertPlacement placement = ExpertPlacement::listed({{4, 0}, {3, 1, 2}});
  EXPECT_EQ(error_of(placement, 5, 2), "legal");
  EXPECT_THAT(placement.experts_of(5, 2, 0), ElementsAre(0, 4));
  EXPECT_THAT(placement.experts_of(5, 2, 1), ElementsAre(1, 2, 3));
}

TEST(ExpertPlacement, OneShardHoldsEverythingWhateverWasListed) {
  const ExpertPlacement placement = ExpertPlacement::listed({{2}, {0, 1}});
  EXPECT_EQ(error_of(placement, 3, 1), "legal");
  EXPECT_THAT(placement.experts_of(3, 1, 0), ElementsAre(0, 1, 2));
}

TEST(ExpertPlacement, EveryRuleHoldsEachExpertOnce) {
  const std::vector<std::pair<ExpertPlacement, int>> placements = {
      {ExpertPlacement::linear(), 3},
      {ExpertPlacement::linear(), 12},
      {ExpertPlacement::round_robin(), 4},
      {ExpertPlacement::round_robin(), 1},
      {ExpertPlacement::listed({{11}, {0, 2, 4, 6, 8, 10}, {1, 3, 5, 7, 9}}), 3}};
  for (const auto& [placement, ep] : placements) {
    std::vector<int64_t> all;
    for (int shard = 0; shard < ep; ++shard) {
      const std::vector<int64_t> own = placement.experts_of(12, ep, shard);
      EXPECT_TRUE(std::is_sorted(own.begin(), own.end()));
      all.insert(all.end(), own.begin(), own.end());
    }
    std::sort(all.begin(), all.end());
    std::vector<int64_t> expected(12);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(all, expected);
  }
}

TEST(ExpertPlacement, RefusesWhatDoesNotHoldEachExpertOnce) {
  EXPECT_THAT(error_of(ExpertPlacement::linear(), 8, 3), HasSubstr("8 is not divisible by 3"));
  EXPECT_THAT(error_of(ExpertPlacement::round_robin(), 8, 16),
              HasSubstr("8 is not divisible by 16"));
  const auto refusal = [](std::vector<std::vector<int64_t>> shards) {
    return error_of(ExpertPlacement::listed(std::move(shards)), 4, 2);
  };
  EXPECT_EQ(refusal({{0, 1}, {2, 3}}), "legal");
  EXPECT_THAT(refusal({{0, 1, 2, 3}}), HasSubstr("lists the experts of 1 shards"));
  EXPECT_THAT(refusal({{0, 1, 2, 3}, {}}), HasSubstr("gives shard 1 no expert"));
  EXPECT_THAT(refusal({{0, 1}, {2, 4}}), HasSubstr("shard 1 expert 4, but the model has 0 to 3"));
  EXPECT_THAT(refusal({{-1, 1}, {2, 3}}), HasSubstr("shard 0 expert -1"));
  EXPECT_THAT(refusal({{0, 1, 2}, {2, 3}}), HasSubstr("expert 2 to shards 0 and 1"));
  EXPECT_THAT(refusal({{0, 0, 1}, {2, 3}}), HasSubstr("expert 0 to shards 0 and 0"));
  EXPECT_THAT(refusal({{0, 1}, {3}}), HasSubstr("gives expert 2 to no shard"));
}

TEST(ExpertPlacement, AMeshTakesAnEpThatDividesNothingWithListsOnly) {
  const ModelDivisors eight{.layers = 4,
                            .heads = 12,
                            .kv_heads = 12,
                            .intermediate_granules = 8,
                            .experts = 8,
                            .expert_granules = 8};
  const ParallelConfig dp3{.dp = 3, .ep = 3};
  EXPECT_FALSE(Mesh::create(dp3, eight).ok());
  const auto mesh =
      Mesh::create(dp3, eight, ExpertPlacement::listed({{0, 1, 2}, {3, 4, 5}, {6, 7}}));
  ASSERT_TRUE(mesh.ok()) << mesh.error().message;
  EXPECT_THAT(mesh->experts_of(2), ElementsAre(6, 7));
  EXPECT_THAT(mesh->experts_of(0), ElementsAre(0, 1, 2));
}

TEST(ExpertPlacement, ADenseModelTakesAnyPlacement) {
  const ModelDivisors dense{.layers = 4, .heads = 8, .kv_heads = 8, .intermediate_granules = 8};
  const auto mesh = Mesh::create({.tp = 2}, dense, ExpertPlacement::listed({{0}, {1}}));
  ASSERT_TRUE(mesh.ok()) << mesh.error().message;
  EXPECT_TRUE(mesh->experts_of(0).empty());
}

}  // namespace
}  // namespace fourfold::mesh
