#include "engine/replica_choice.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <deque>
#include <numeric>

#include "engine/kv_cache.h"
#include "engine/simulated_executor_test.h"

namespace fourfold::engine {
namespace {

using testing::ElementsAre;
using Tokens = std::vector<TokenId>;

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

TEST(ReplicaChoice, FollowsNoPrefixToAReplicaBeyondTheSlack) {
  std::array<ReplicaLoad, 2> loads = {
      {{.outstanding_tokens = 100},
       {.outstanding_tokens = 100 + kAffinitySlackTokens, .known_tokens = 1'000'000}}};
  EXPECT_EQ(choose_replica(loads), 1U);
  ++loads[1].outstanding_tokens;
  EXPECT_EQ(choose_replica(loads), 0U);
  // The slack grows with the load.
  loads[0].outstanding_tokens = 80'000;
  loads[1].outstanding_tokens = 90'000;
  EXPECT_EQ(choose_replica(loads), 1U);
  ++loads[1].outstanding_tokens;
  EXPECT_EQ(choose_replica(loads), 0U);
}

TEST(ReplicaChoice, BreaksTiesByFreeBlocksThenByOrder) {
  std::array<ReplicaLoad, 3> loads = {{{.free_blocks = 1}, {.free_blocks = 2}, {.free_blocks = 2}}};
  EXPECT_EQ(choose_replica(loads), 1U);
  loads[0].free_blocks = 2;
  EXPECT_EQ(choose_replica(loads), 0U);
}

TEST(PrefixAffinity, KnowsWhatThePrefixCacheOfThatReplicaWouldFind) {
  PrefixAffinity affinity(2, 100, 2);
  EXPECT_THAT(affinity.known_tokens(Tokens{1, 2, 3}), ElementsAre(0, 0));
  affinity.record(1, Tokens{1, 2, 3, 4, 5});
  EXPECT_THAT(affinity.known_tokens(Tokens{1, 2, 3, 4, 5}), ElementsAre(0, 4));
  EXPECT_THAT(affinity.known_tokens(Tokens{1, 2, 3, 4}), ElementsAre(0, 2))
      << "the last is computed";
  EXPECT_THAT(affinity.known_tokens(Tokens{1, 2, 9, 4, 5}), ElementsAre(0, 2));
  EXPECT_THAT(affinity.known_tokens(Tokens{3, 4, 5}), ElementsAre(0, 0)) << "not from the start";
  affinity.clear();
  EXPECT_THAT(affinity.known_tokens(Tokens{1, 2, 3}), ElementsAre(0, 0));
}

TEST(PrefixAffinity, ForgetsTheLeastRecentlySentTailsFirst) {
  PrefixAffinity affinity(1, 3, 1);
  affinity.record(0, Tokens{1, 2, 0});
  affinity.record(0, Tokens{5, 6, 0});
  EXPECT_THAT(affinity.known_tokens(Tokens{1, 2, 0}), ElementsAre(1));
  EXPECT_THAT(affinity.known_tokens(Tokens{5, 6, 0}), ElementsAre(2));
  affinity.record(0, Tokens{1, 0});
  affinity.record(0, Tokens{7, 0});
  EXPECT_THAT(affinity.known_tokens(Tokens{1, 2, 0}), ElementsAre(1)) << "sent again";
  EXPECT_THAT(affinity.known_tokens(Tokens{5, 6, 0}), ElementsAre(1));
}

/// Conversations served by replicas with a real prefix cache each. A round computes up to
/// kRoundTokens tokens on every replica that has work.
class ConversationRun {
 public:
  static constexpr int32_t kBlockSize = 16;
  static constexpr int64_t kRoundTokens = 256;
  static constexpr int kConversations = 64;
  static constexpr int kTurns = 8;

  /// Without `has_affinity` the choice is by load alone.
  ConversationRun(size_t replicas, int64_t blocks, bool has_affinity)
      : affinity_(replicas, blocks, kBlockSize), has_affinity_(has_affinity), replicas_(replicas) {
    for (Replica& replica : replicas_) {
      replica.cache = std::make_unique<KvCache>(blocks, kBlockSize, true, &hash_block);
    }
    for (int c = 0; c < kConversations; ++c) {
      Tokens& history = histories_.emplace_back(512);  // a system prompt, one of four
      std::iota(history.begin(), history.end(), 1'000'000 * (c % 4));
    }
  }

  /// `per_round`: new requests, which all replicas together can just serve.
  void run(int per_round) {
    uint64_t random = 1;
    for (int turn = 0; turn < kTurns; ++turn) {
      for (int c = 0; c < kConversations; ++c) {
        random = mix(random, 0);
        Tokens& history = histories_[static_cast<size_t>(c)];
        const auto length = static_cast<int32_t>(32 + random % 192);
        for (int32_t i = 0; i < length; ++i) {
          history.push_back(static_cast<TokenId>(mix(random, static_cast<uint64_t>(i)) >> 34));
        }
        send(history, static_cast<int64_t>(32 + (random >> 20) % 192));
        if ((turn * kConversations + c) % per_round == 0) serve();
      }
    }
  }

  double hit_rate() const { return static_cast<double>(hits_) / static_cast<double>(queried_); }
  /// Of the tokens that the replicas had to compute or sample.
  double imbalance() const {
    int64_t total = 0;
    int64_t most = 0;
    for (const Replica& replica : replicas_) {
      total += replica.work;
      most = std::max(most, replica.work);
    }
    return static_cast<double>(most) * static_cast<double>(replicas_.size()) /
           static_cast<double>(total);
  }

 private:
  struct Replica {
    std::unique_ptr<KvCache> cache;
    int64_t outstanding = 0;
    int64_t work = 0;
  };

  void send(const Tokens& prompt, int64_t new_tokens) {
    const std::vector<int64_t> known = affinity_.known_tokens(prompt);
    std::vector<ReplicaLoad> loads;
    for (size_t i = 0; i < replicas_.size(); ++i) {
      loads.push_back({.outstanding_tokens = replicas_[i].outstanding, .known_tokens = known[i]});
    }
    const size_t chosen = choose_replica(loads);
    if (has_affinity_) affinity_.record(chosen, prompt);

    Replica& replica = replicas_[chosen];
    BlockTable table;
    const std::optional<int32_t> hit = replica.cache->open(table, prompt, 0);
    ASSERT_TRUE(hit);
    replica.cache->publish(table, prompt, static_cast<int32_t>(prompt.size()));
    replica.cache->close(table);
    queried_ += std::ssize(prompt);
    hits_ += *hit;
    const int64_t work = std::ssize(prompt) - *hit + new_tokens;
    replica.outstanding += work;
    replica.work += work;
  }

  void serve() {
    for (Replica& replica : replicas_) {
      replica.outstanding -= std::min(replica.outstanding, kRoundTokens);
    }
  }

  PrefixAffinity affinity_;
  bool has_affinity_;
  std::vector<Replica> replicas_;
  std::vector<Tokens> histories_;
  int64_t queried_ = 0;
  int64_t hits_ = 0;
};

TEST(ReplicaChoice, KeepsConversationsWhereTheyAreKnownAndReplicasEquallyBusy) {
  // As many blocks in all, whatever the number of replicas: enough for all conversations.
  constexpr int64_t kBlocks = 16'384;
  ConversationRun one(1, kBlocks, true);
  one.run(1);
  EXPECT_GT(one.hit_rate(), 0.8);
  for (const size_t replicas : {2U, 4U, 8U}) {
    SCOPED_TRACE(replicas);
    const int64_t blocks = kBlocks / static_cast<int64_t>(replicas);
    ConversationRun many(replicas, blocks, true);
    many.run(static_cast<int>(replicas));
    EXPECT_GT(many.hit_rate(), 0.95 * one.hit_rate());
    EXPECT_LT(many.imbalance(), 1.1);
    ConversationRun by_load(replicas, blocks, false);
    by_load.run(static_cast<int>(replicas));
    EXPECT_LT(by_load.hit_rate(), 0.92 * many.hit_rate());
    for (const auto& [name, value] : {std::pair{"hit_rate", many.hit_rate()},
                                      {"hit_rate_by_load", by_load.hit_rate()},
                                      {"max_over_mean", many.imbalance()}}) {
      RecordProperty(fmt::format("{}_{}", name, replicas), fmt::format("{:.3f}", value));
    }
  }
  RecordProperty("hit_rate_1", fmt::format("{:.3f}", one.hit_rate()));
}

}  // namespace
}  // namespace fourfold::engine
