#include "engine/replica_choice.h"

#include <gtest/gtest.h>

#include <array>

namespace fourfold::engine {
namespace {

TEST(ReplicaChoice, PrefersTheLeastOutstandingWork) {
  constexpr std::array<ReplicaLoad, 3> kLoads = {
      {{.outstanding_tokens = 30}, {.outstanding_tokens = 10}, {.outstanding_tokens = 20}}};
  static_assert(choose_replica(kLoads) == 1);
}

TEST(ReplicaChoice, FollowsAKnownPrefixAsFarAsItSavesWork) {
  std::array<ReplicaLoad, 2> loads = {
      {{.outstanding_tokens = 10}, {.outstanding_tokens = 50, .known_tokens = 64}}};
  EXPECT_EQ(choose_replica(loads), 1U);
  loads[1].known_tokens = 32;
  EXPECT_EQ(choose_replica(loads), 0U);
}

TEST(ReplicaChoice, BreaksTiesByFreeBlocksThenByOrder) {
  std::array<ReplicaLoad, 3> loads = {{{.free_blocks = 1}, {.free_blocks = 2}, {.free_blocks = 2}}};
  EXPECT_EQ(choose_replica(loads), 1U);
  loads[0].free_blocks = 2;
  EXPECT_EQ(choose_replica(loads), 0U);
}

}  // namespace
}  // namespace fourfold::engine
