#include "runtime/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#include "runtime/fault.h"

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
      if (event.token) {
        tokens[event.id].push_back(event.token->token);
        logprobs[event.id].push_back(event.token->logprob);
      }
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
  void wait_for(const std::vector<SequenceId>& ids) {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] {
      return std::all_of(ids.begin(), ids.end(), [&](auto id) { return finishes.contains(id); });
    });
  }

  std::map<SequenceId, std::vector<TokenId>> tokens;
  std::map<SequenceId, std::vector<float>> logprobs;
  std::map<SequenceId, FinishReason> finishes;
  std::string failure;

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
};

class ClusterTest : public testing::Test {
 protected:
  ~ClusterTest() override { unsetenv(kFaultVariable); }

  void start(int dp, std::optional<RestartOptions> restart = std::nullopt) {
    cluster.reset();
    outcomes.tokens.clear();
    outcomes.logprobs.clear();
    outcomes.finishes.clear();
    ClusterConfig config;
    config.restart = restart;
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

/// Requests that between them use whatever depends on the output so far.
class GroupFailures : public ClusterTest {
 protected:
  /// What every request gives: all of one request's choices behind each other.
  struct Result {
    std::vector<std::vector<TokenId>> tokens;
    std::vector<std::vector<float>> logprobs;
    std::vector<FinishReason> finishes;
  };

  Result run() {
    std::vector<Request> requests;
    for (int i = 0; i < 6; ++i) requests.push_back(request(100 + 10 * i, 10 + i, 30));
    for (size_t i = 1; i < requests.size(); ++i) {
      requests[i].sampling.seed = i;
      requests[i].ignore_eos = true;
    }
    requests[0].sampling.temperature = 0;
    requests[1].forks = {cluster->next_id(), cluster->next_id()};
    requests[2].sampling.frequency_penalty = 1.5F;
    requests[3].sampling.repetition_penalty = 1.3F;
    requests[3].sampling.logprobs = 3;
    requests[4].ignore_eos = false;
    requests[4].sampling.min_tokens = 12;
    requests[4].stop_tokens.resize(600);
    std::iota(requests[4].stop_tokens.begin(), requests[4].stop_tokens.end(), 0);
    std::vector<SequenceId> ids;
    for (Request& one : requests) {
      ids.push_back(one.id);
      ids.insert(ids.end(), one.forks.begin(), one.forks.end());
      send(std::move(one));
    }
    outcomes.wait_for(ids);
    Result out;
    for (const SequenceId id : ids) {
      out.tokens.push_back(outcomes.tokens[id]);
      out.logprobs.push_back(outcomes.logprobs[id]);
      out.finishes.push_back(outcomes.finishes.at(id));
    }
    return out;
  }

  Result undisturbed() {
    start(/*dp=*/1);
    Result out = run();
    return out;
  }

  void expect_same(const Result& result, const Result& expected) {
    EXPECT_EQ(result.tokens, expected.tokens);
    EXPECT_EQ(result.logprobs, expected.logprobs);
    EXPECT_EQ(result.finishes, expected.finishes);
  }

  int64_t restarts() {
    int64_t sum = 0;
    for (const GroupStatus& group : cluster->status()) sum += group.restarts;
    return sum;
  }
  /// Waits until every group is up that has ever failed.
  void wait_for_restarts(int64_t count) {
    while (restarts() < count) std::this_thread::yield();
  }

  /// A rank throws wherever it is told to: that is a crash.
  static void fail_at(const char* where) {
    setenv(kFaultVariable, (std::string(where) + " action=throw").c_str(), 1);
  }
};

TEST_F(GroupFailures, MoveSequencesToAnotherGroupWithoutASeam) {
  const Result expected = undisturbed();
  for (const char* where :
       {"rank=0 restart=0 step=0 op=embed", "rank=0 restart=0 step=1 op=sample",
        "rank=0 restart=0 step=9 op=mlp layer=3", "rank=1 restart=0 step=25 op=attention"}) {
    SCOPED_TRACE(where);
    fail_at(where);
    start(/*dp=*/2, RestartOptions());
    expect_same(run(), expected);
    wait_for_restarts(1);
    const std::vector<GroupStatus> status = cluster->status();
    const GroupStatus& failed = status[where[5] == '0' ? 0 : 1];
    EXPECT_EQ(failed.failures[static_cast<size_t>(FailureCause::kCrashed)], 1);
    EXPECT_EQ(failed.failure, "");
    EXPECT_THAT(failed.previous_failure, HasSubstr("FOURFOLD_FAULT said so"));
    EXPECT_GT(failed.migrated, 0);
    EXPECT_GT(failed.recovery_s, 0);
    expect_same(run(), expected);
  }
}

TEST_F(GroupFailures, HoldSequencesUntilTheOnlyGroupIsBack) {
  const Result expected = undisturbed();
  fail_at("restart=0 step=12 op=head");
  start(/*dp=*/1, RestartOptions());
  expect_same(run(), expected);
  EXPECT_EQ(restarts(), 1);
}

TEST_F(GroupFailures, EndSequencesWhereNothingIsRestarted) {
  fail_at("rank=0 step=5 op=head");
  start(/*dp=*/1);
  const Result result = run();
  for (const FinishReason finish : result.finishes) EXPECT_EQ(finish, FinishReason::kFailed);
  EXPECT_THAT(outcomes.failure, HasSubstr("FOURFOLD_FAULT said so"));
  EXPECT_FALSE(cluster->submit(request(1, 1, 1), outcomes.sink()).ok());
}

TEST_F(GroupFailures, ARequestThatCrashesRanksIsRefusedAndTheOthersGoOn) {
  const Result expected = undisturbed();
  for (const int dp : {1, 2}) {
    SCOPED_TRACE(dp);
    fail_at("op=embed token=900");
    start(dp, RestartOptions{.stable_s = 0});
    const auto poison = [&] {
      Request out = request(895, 10, 20);
      out.forks = {cluster->next_id()};
      return out;
    };
    Request first = poison();
    const std::vector<SequenceId> ids = {first.id, first.forks[0]};
    send(std::move(first));
    const Result result = run();
    outcomes.wait_for(ids);
    for (const SequenceId id : ids) EXPECT_EQ(outcomes.finishes.at(id), FinishReason::kRefused);
    expect_same(result, expected);
    const auto crashes = [&] {
      int64_t sum = 0;
      for (const GroupStatus& group : cluster->status()) sum += group.failures[1];
      return sum;
    };
    const int64_t before = crashes();
    EXPECT_GE(before, 2);
    Request again = poison();
    const SequenceId refused = again.id;
    send(std::move(again));
    outcomes.wait_for({refused});
    EXPECT_EQ(outcomes.finishes.at(refused), FinishReason::kRefused);
    EXPECT_THAT(outcomes.failure, HasSubstr("refused for 60 s"));
    EXPECT_EQ(crashes(), before);
  }
}

}  // namespace
}  // namespace fourfold::runtime
