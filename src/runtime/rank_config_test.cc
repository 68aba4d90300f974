#include <gtest/gtest.h>

#include <set>

#include "runtime/worker.h"

namespace fourfold::runtime {
namespace {

/// The GPUs of all ranks of a scheme, group by group.
std::multiset<int> gpus_of_all(mesh::ParallelConfig group, int groups, int gpus) {
  std::multiset<int> out;
  for (int g = 0; g < groups; ++g) {
    RankConfig config;
    config.group = group;
    config.groups = groups;
    config.group_index = g;
    config.gpus = gpus;
    for (int rank = 0; rank < group.devices(); ++rank) out.insert(gpu_of(config, rank));
  }
  return out;
}

TEST(RankConfig, EveryRankOfASchemeHasAGpuOfItsOwnWhereThereAreEnough) {
  const std::multiset<int> all{0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(gpus_of_all({.tp = 8}, 1, 8), all);
  EXPECT_EQ(gpus_of_all({.pp = 2, .tp = 4}, 1, 8), all);
  EXPECT_EQ(gpus_of_all({.pp = 2, .tp = 2}, 2, 8), all);
  EXPECT_EQ(gpus_of_all({}, 8, 8), all);
  RankConfig config;
  config.group = {.tp = 4};
  config.groups = 2;
  config.gpus = 8;
  EXPECT_TRUE(config.has_own_gpus());
}

TEST(RankConfig, RanksTakeFewerGpusInTurn) {
  EXPECT_EQ(gpus_of_all({.pp = 2, .tp = 2}, 1, 2), (std::multiset<int>{0, 0, 1, 1}));
  EXPECT_EQ(gpus_of_all({.tp = 4}, 1, 3), (std::multiset<int>{0, 0, 1, 2}));
  RankConfig config;
  config.group = {.tp = 4};
  config.gpus = 3;
  EXPECT_FALSE(config.has_own_gpus());
}

TEST(RankConfig, WithoutGpusNobodyOwnsOne) {
  EXPECT_EQ(gpus_of_all({.tp = 2}, 1, 0), (std::multiset<int>{0, 0}));
  EXPECT_FALSE(RankConfig().has_own_gpus());
}

}  // namespace
}  // namespace fourfold::runtime
