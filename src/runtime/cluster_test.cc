#include "runtime/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <numeric>
#include <vector>

namespace fourfold::runtime {
namespace {

using engine::FinishReason;
using engine::Request;
using engine::SequenceId;
using engine::TokenId;
using testing::HasSubstr;
using testing::SizeIs;

/// Collects events until every sequence that was sent has ended.
class Outcomes {
 public:
  EventSink sink() {
    return [this](const engine::SequenceEvent& event, int64_t) {
      const std::lock_guard lock(mutex_);
      if (event.token) tokens[event.id].push_back(event.token->token);
      if (!event.finish) return;
      finishes[event.id] = *event.finish;
      failure = event.failure;
      ended_.notify_one();
    };
  }
  void wait_for(size_t sequences) {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return finishes.size() >= sequences; });
  }

  std::map<SequenceId, std::vector<TokenId>> tokens;
  std::map<SequenceId, FinishReason> finishes;
  std::string failure;

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
};

class ClusterTest : public testing::Test {
 protected:
  void start(int dp) {
    ClusterConfig config;
    config.model = "tiny";
    config.scheme = {.dp = dp};
    config.ranks = RankMode::kThreads;
    config.block_size = 8;
    config.max_positions = 64;
    config.max_running = 8;
    auto started = Cluster::start(config, [](const std::string&) {});
    ASSERT_TRUE(started.ok()) << started.error().message;
    cluster = std::move(started).value();
  }

  Request request(TokenId first, int32_t prompt_tokens, int32_t new_tokens) {
    Request out;
    out.id = cluster->next_id();
    out.prompt.resize(static_cast<size_t>(prompt_tokens));
    std::iota(out.prompt.begin(), out.prompt.end(), first);
    out.max_new_tokens = new_tokens;
    return out;
  }

  void send(Request request) {
    ASSERT_TRUE(cluster->submit(std::move(request), outcomes.sink()).ok());
  }

  Outcomes outcomes;  // outlives the cluster, whose threads call it
  std::unique_ptr<Cluster> cluster;
};

TEST_F(ClusterTest, SendsARequestToTheBusierReplicaThatKnowsItsPrefix) {
  start(/*dp=*/2);
  send(request(100, 40, 2));
  outcomes.wait_for(1);
  send(request(500, 4, 8));   // to the first replica: both are idle
  send(request(100, 44, 2));  // 40 known tokens outweigh the other's 12 outstanding ones
  outcomes.wait_for(3);
  EXPECT_EQ(cluster->engine_stats().scheduler.hit_tokens, 40);
}

TEST_F(ClusterTest, KnowsTheFreeBlocksOfEveryGroupBeforeTheirThreadsHaveRun) {
  start(/*dp=*/4);
  EXPECT_EQ(cluster->occupancy().blocks, 4 * cluster->limits().blocks);
  EXPECT_GT(cluster->limits().blocks, 0);
}

TEST_F(ClusterTest, TellsOfEveryChoiceByItsOwnId) {
  start(/*dp=*/2);
  Request three = request(100, 20, 6);
  three.forks = {cluster->next_id(), cluster->next_id()};
  three.sampling.seed = 5;
  Request alone = three;
  alone.id = cluster->next_id();
  alone.forks.clear();
  alone.sampling.choice = 2;
  const SequenceId last = three.forks[1];
  const SequenceId by_itself = alone.id;
  send(std::move(three));
  send(std::move(alone));
  outcomes.wait_for(4);
  EXPECT_THAT(outcomes.finishes, SizeIs(4));
  EXPECT_EQ(outcomes.tokens.at(last), outcomes.tokens.at(by_itself));
}

TEST_F(ClusterTest, RefusesEveryChoiceOfARequestThatDoesNotFit) {
  start(/*dp=*/1);
  Request two = request(0, 64, 1);
  two.forks = {cluster->next_id()};
  send(std::move(two));
  outcomes.wait_for(2);
  for (const auto& [id, finish] : outcomes.finishes) EXPECT_EQ(finish, FinishReason::kFailed);
  EXPECT_THAT(outcomes.failure, HasSubstr("context of 64"));
}

TEST_F(ClusterTest, CancelsOneChoiceAndFinishesTheOther) {
  start(/*dp=*/1);
  Request two = request(100, 20, 30);
  two.forks = {cluster->next_id()};
  const SequenceId kept = two.id;
  const SequenceId cancelled = two.forks[0];
  send(std::move(two));
  cluster->cancel(cancelled);
  outcomes.wait_for(2);
  EXPECT_EQ(outcomes.finishes.at(kept), FinishReason::kLength);
  EXPECT_THAT(outcomes.tokens.at(kept), SizeIs(30));
  EXPECT_EQ(outcomes.finishes.at(cancelled), FinishReason::kCancelled);
}

}  // namespace
}  // namespace fourfold::runtime
