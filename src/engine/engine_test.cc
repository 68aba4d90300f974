#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "engine/simulated_executor_test.h"

namespace fourfold::engine {
namespace {

using testing::HasSubstr;

SimulatedExecutor::Options toy(int32_t replicas = 1) {
  return {.limits = {.replicas = replicas,
                     .stages = 1,
                     .depth = 2,
                     .slots = 8,
                     .max_step_tokens = 32,
                     .block_size = 4,
                     .blocks = 64,
                     .max_positions = 64},
          .vocab = 50};
}

Request request(int64_t id, int32_t max_new_tokens) {
  Request out;
  out.id = SequenceId(id);
  out.prompt = {1, 2, static_cast<TokenId>(id)};
  out.max_new_tokens = max_new_tokens;
  return out;
}

TEST(Engine, KeepsAsManyStepsOutstandingAsTheExecutorTakes) {
  SimulatedExecutor executor(toy());
  const base::ManualClock clock;
  Engine engine(executor, {.lookahead = 1}, clock);
  ASSERT_TRUE(engine.add(request(1, 8)).ok());
  EXPECT_EQ(engine.run_once().size(), 1U);
  EXPECT_EQ(executor.submitted(), 2) << "one came back, one is under way";
  engine.run_once();
  EXPECT_EQ(executor.submitted(), 3);
}

TEST(Engine, TracingMayBeginAndEndWhileStepsAreOutstanding) {
  SimulatedExecutor executor(toy());
  const base::ManualClock clock;
  Engine engine(executor, {.lookahead = 1}, clock);
  ASSERT_TRUE(engine.add(request(1, 8)).ok());
  size_t tokens = engine.run_once().size();  // a second step is under way now
  int records = 0;
  engine.trace([&](const StepRecord&) { ++records; });
  tokens += engine.run_once().size();
  EXPECT_EQ(records, 1);
  engine.trace(nullptr);
  while (engine.has_work()) tokens += engine.run_once().size();
  EXPECT_EQ(tokens, 8U) << "no token is lost on the way";
  EXPECT_LE(records, 2);
}

TEST(Engine, ClearingThePrefixCacheForgetsThePeakOfKvBlocks) {
  SimulatedExecutor executor(toy());
  const base::ManualClock clock;
  Engine engine(executor, {}, clock);
  ASSERT_TRUE(engine.add(request(1, 20)).ok());
  while (engine.has_work()) engine.run_once();
  EXPECT_GE(engine.stats().scheduler.peak_blocks, 5);
  engine.clear_prefix_cache();
  EXPECT_EQ(engine.stats().scheduler.peak_blocks, 0);
}

TEST(Engine, CountsStepsByTheirTokens) {
  SimulatedExecutor executor(toy());
  const base::ManualClock clock;
  Engine engine(executor, {}, clock);
  const Request asked = request(1, 20);
  const auto prompt_tokens = static_cast<int64_t>(asked.prompt.size());
  ASSERT_TRUE(engine.add(asked).ok());
  while (engine.has_work()) engine.run_once();
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.tokens, prompt_tokens + 19) << "the last token is sampled and not computed";
  EXPECT_GE(stats.steps_by_tokens[0], 19) << "decodes of one row, and one of none at the end";
  EXPECT_EQ(std::accumulate(stats.steps_by_tokens.begin(), stats.steps_by_tokens.end(), int64_t{0}),
            stats.steps);
}

TEST(Engine, TellsHowFullItsReplicasAre) {
  SimulatedExecutor::Options options = toy(/*replicas=*/2);
  options.limits.slots = 1;
  SimulatedExecutor executor(options);
  const base::ManualClock clock;
  Engine engine(executor, {}, clock);
  EXPECT_EQ(engine.occupancy(), (Occupancy{.blocks = 2 * 64}));
  for (int64_t id : {1, 2, 3}) ASSERT_TRUE(engine.add(request(id, 8)).ok());
  EXPECT_EQ(engine.occupancy().waiting, 3);
  engine.run_once();
  EXPECT_EQ(engine.occupancy().running, 2) << "one slot a replica";
  EXPECT_EQ(engine.occupancy().waiting, 1);
  EXPECT_GE(engine.occupancy().used_blocks, 2);
  while (engine.has_work()) engine.run_once();
  EXPECT_EQ(engine.occupancy(), (Occupancy{.blocks = 2 * 64}));
}

TEST(Engine, NumericsReachEveryLaterStepAndShareNoKeysWithTheOnesBefore) {
  SimulatedExecutor executor(toy());
  const base::ManualClock clock;
  Engine engine(executor, {}, clock);
  Request first = request(1, 4);
  first.prompt.resize(12, 3);
  Request second = first;
  second.id = SequenceId(2);
  ASSERT_TRUE(engine.add(first).ok());
  while (engine.has_work()) engine.run_once();
  EXPECT_EQ(executor.last_numerics(), base::Numerics::kInvariant);
  engine.set_numerics(base::Numerics::kFast);
  ASSERT_TRUE(engine.add(second).ok());
  while (engine.has_work()) engine.run_once();
  EXPECT_EQ(executor.last_numerics(), base::Numerics::kFast);
  EXPECT_EQ(engine.stats().scheduler.hit_tokens, 0);
}

TEST(Engine, HasWorkUntilTheLastEventIsOut) {
  SimulatedExecutor executor(toy());
  const base::ManualClock clock;
  Engine engine(executor, {}, clock);
  EXPECT_FALSE(engine.has_work());
  EXPECT_TRUE(engine.run_once().empty());
  ASSERT_TRUE(engine.add(request(1, 1)).ok());
  EXPECT_TRUE(engine.has_work());
  engine.cancel(SequenceId(1));
  EXPECT_TRUE(engine.has_work());
  EXPECT_EQ(engine.run_once().at(0).finish, FinishReason::kCancelled);
  EXPECT_FALSE(engine.has_work());
  EXPECT_EQ(executor.submitted(), 0);
}

TEST(Engine, StepsIdleReplicasWithZeroRows) {
  SimulatedExecutor executor(toy(/*replicas=*/2));
  const base::ManualClock clock;
  Engine engine(executor, {}, clock);
  ASSERT_TRUE(engine.add(request(1, 4)).ok());
  while (engine.has_work()) engine.run_once();
  EXPECT_EQ(executor.zero_row_batches(), executor.submitted());
}

TEST(Engine, SpreadsRequestsOverReplicas) {
  SimulatedExecutor executor(toy(/*replicas=*/2));
  const base::ManualClock clock;
  Engine engine(executor, {}, clock);
  std::map<SequenceId, int32_t> replica_of;
  engine.trace([&](const StepRecord& record) {
    for (const ChunkRecord& chunk : record.chunks) replica_of[chunk.sequence] = record.replica;
  });
  ASSERT_TRUE(engine.add(request(1, 4)).ok());
  ASSERT_TRUE(engine.add(request(2, 4)).ok());
  while (engine.has_work()) engine.run_once();
  EXPECT_NE(replica_of.at(SequenceId(1)), replica_of.at(SequenceId(2)));
}

TEST(Engine, EndsEverySequenceOnceWhenAStepFails) {
  SimulatedExecutor::Options options = toy();
  options.limits.slots = 1;
  options.fail_at_step = 2;
  SimulatedExecutor executor(options);
  const base::ManualClock clock;
  Engine engine(executor, {}, clock);
  for (int64_t id : {1, 2, 3}) ASSERT_TRUE(engine.add(request(id, 20)).ok());
  std::map<SequenceId, int> failed;
  int tokens = 0;
  while (engine.has_work()) {
    for (const SequenceEvent& event : engine.run_once()) {
      if (event.token) ++tokens;
      if (event.finish != FinishReason::kFailed) continue;
      ++failed[event.id];
      EXPECT_THAT(event.failure, HasSubstr("rank 1"));
    }
  }
  EXPECT_EQ(tokens, 2);
  EXPECT_EQ(failed.size(), 3U);
  for (const auto& [id, times] : failed) EXPECT_EQ(times, 1) << id.value;
  const base::Status status = engine.add(request(4, 1));
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("rank 1 (stage 1, shard 0) was killed"));
}

}  // namespace
}  // namespace fourfold::engine
