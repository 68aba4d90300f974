#include "engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/scheduler_bench_test.h"

namespace fourfold::engine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<SlotId> slots(const StepBatch& batch) {
  std::vector<SlotId> out;
  for (const Chunk& chunk : batch.chunks) out.push_back(chunk.slot);
  return out;
}

std::string refusal(const ExecutorLimits& limits, Request r) {
  Scheduler scheduler(limits, {});
  const base::Status status = scheduler.add(std::move(r));
  return status.ok() ? "accepted" : status.error().message;
}

TEST(Scheduler, RefusesWhatCanNeverFitWithTheNumbers) {
  ExecutorLimits limits = roomy();
  EXPECT_EQ(refusal(limits, request(kA, 99)), "accepted");
  EXPECT_THAT(refusal(limits, request(kA, 100)),
              HasSubstr("prompt of 100 tokens and one new token do not fit a context of 100"));
  limits.blocks = 5;
  EXPECT_EQ(refusal(limits, request(kA, 1, 20)), "accepted") << "the last token has no position";
  EXPECT_THAT(refusal(limits, request(kA, 2, 20)),
              HasSubstr("22 tokens of prompt and output need 6 KV blocks of 4 positions, the cache "
                        "has 5"));
  EXPECT_THAT(refusal(limits, request(kA, 0)), HasSubstr("has 0 and 20"));
  EXPECT_THAT(refusal(limits, request(kA, 1, 0)), HasSubstr("has 1 and 0"));
  Request negative = request(kA, 3);
  negative.prompt[1] = -5;
  EXPECT_THAT(refusal(limits, negative), HasSubstr("token -5"));
}

TEST(Scheduler, CarriesOnlyWhatIsNew) {
  Bench bench(roomy());
  bench.add(request(kA, 6));
  const StepBatch prompt = bench.step();
  EXPECT_THAT(prompt.starts, ElementsAre(SlotStart{.slot = SlotId(0), .prompt_tokens = 6}));
  EXPECT_THAT(prompt.chunks, ElementsAre(Chunk{SlotId(0), 0, 6, 2, true}));
  EXPECT_THAT(prompt.tokens, ElementsAre(100, 101, 102, 103, 104, 105));
  bench.commit(42);
  const StepBatch decode = bench.step();
  EXPECT_THAT(decode.starts, IsEmpty());
  EXPECT_THAT(decode.chunks, ElementsAre(Chunk{SlotId(0), 6, 1, 0, true}));
  EXPECT_THAT(decode.tokens, ElementsAre(42));
  bench.commit();
  EXPECT_THAT(bench.step().blocks, IsEmpty());
  bench.commit();
  EXPECT_THAT(bench.step().blocks, ElementsAre(BlockId(2))) << "position 8 begins the third block";
}

TEST(Scheduler, SplitsAPromptIntoConsecutiveStepsInFlight) {
  Bench bench(roomy(), {.chunk_tokens = 4});
  bench.add(request(kA, 10));
  EXPECT_THAT(bench.step().chunks, ElementsAre(Chunk{SlotId(0), 0, 4, 3, false}));
  EXPECT_THAT(bench.step().chunks, ElementsAre(Chunk{SlotId(0), 4, 4, 0, false}));
  EXPECT_THAT(bench.step().chunks, ElementsAre(Chunk{SlotId(0), 8, 2, 0, true}));
  EXPECT_EQ(bench.scheduler.stats().max_prompt_chunks, 3);
}

TEST(Scheduler, SharesOneTokenBudgetAndServesDecodesFirst) {
  ExecutorLimits limits = roomy();
  limits.max_step_tokens = 8;
  Bench bench(limits);
  bench.add(request(kA, 3));
  bench.step();
  bench.commit();
  bench.add(request(kB, 5));
  bench.add(request(kC, 9));
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(1, 5, 2));
}

TEST(Scheduler, NamesAnUnknownTokenByStepAndRow) {
  Bench bench(roomy(), {.lookahead = 1});
  bench.add(request(kA, 3));
  bench.add(request(kB, 3));
  bench.step();
  const StepBatch ahead = bench.step();
  EXPECT_THAT(ahead.tokens, ElementsAre(-1, -2));
  EXPECT_THAT(ahead.refs, ElementsAre(SampledRef{StepId(0), 0}, SampledRef{StepId(0), 1}));
  EXPECT_FALSE(bench.plan()) << "two tokens of each would be unknown";
  EXPECT_EQ(bench.scheduler.stats().lookahead_rows, 2);
  bench.commit();
  EXPECT_THAT(bench.step().refs, ElementsAre(SampledRef{StepId(1), 0}, SampledRef{StepId(1), 1}));
}

TEST(Scheduler, WaitsForEveryResultWithoutLookahead) {
  Bench bench(roomy(), {.lookahead = 0});
  bench.add(request(kA, 3));
  bench.step();
  EXPECT_FALSE(bench.plan());
  bench.commit(5);
  EXPECT_THAT(bench.step().tokens, ElementsAre(5));
}

TEST(Scheduler, DropsWhatWasSampledBehindAStopToken) {
  Bench bench(roomy(), {.lookahead = 2});
  Request stopping = request(kA, 3);
  stopping.stop_tokens = {9};
  bench.add(stopping);
  bench.step();
  bench.step();
  bench.step();
  bench.commit(9);
  const std::vector<SequenceEvent> events = bench.scheduler.take_events();
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0].token->token, 9);
  EXPECT_EQ(events[0].finish, FinishReason::kStop);
  EXPECT_EQ(bench.scheduler.snapshot().sequences.size(), 1U) << "two of its steps are in flight";
  bench.commit(1);
  bench.commit(2);
  EXPECT_THAT(bench.scheduler.take_events(), IsEmpty());
  EXPECT_THAT(bench.scheduler.snapshot().sequences, IsEmpty());
}

TEST(Scheduler, GoesOnBehindAStopTokenIfAskedTo) {
  Bench bench(roomy());
  Request stopping = request(kA, 3, 2);
  stopping.stop_tokens = {9};
  stopping.ignore_eos = true;
  bench.add(stopping);
  bench.step();
  bench.commit(9);
  EXPECT_FALSE(bench.scheduler.take_events()[0].finish);
  bench.step();
  bench.commit(9);
  EXPECT_EQ(bench.scheduler.take_events()[0].finish, FinishReason::kLength);
}

TEST(Scheduler, NeverPlansBeyondTheLastToken) {
  ExecutorLimits limits = roomy();
  limits.max_positions = 5;
  Bench bench(limits, {.lookahead = 3});
  bench.add(request(kA, 3, 20));
  bench.step();
  bench.step();
  EXPECT_FALSE(bench.plan()) << "the context holds two new tokens";
  bench.commit();
  bench.commit();
  EXPECT_EQ(bench.scheduler.take_events().back().finish, FinishReason::kLength);
}

TEST(Scheduler, SpreadsDecodesOverTheStages) {
  ExecutorLimits limits = roomy();
  limits.stages = 2;
  Bench bench(limits);
  for (int64_t id = 1; id <= 5; ++id) bench.add(request(SequenceId(id), 2));
  bench.step();
  bench.commit();
  const StepBatch first = bench.step();
  const StepBatch second = bench.step();
  EXPECT_THAT(slots(first), ElementsAre(SlotId(0), SlotId(1), SlotId(2)));
  EXPECT_THAT(slots(second), ElementsAre(SlotId(3), SlotId(4))) << "0, 1, 2 would wait in stage 0";
  const StepBatch third = bench.step();
  EXPECT_EQ(slots(third), slots(first));
  EXPECT_EQ(third.refs[0], (SampledRef{first.step, 0}));
}

TEST(Scheduler, BudgetsPromptsApartFromTheSpreadDecodes) {
  ExecutorLimits limits = roomy();
  limits.stages = 2;
  limits.max_step_tokens = 8;
  Bench bench(limits);
  for (int64_t id = 1; id <= 4; ++id) bench.add(request(SequenceId(id), 2));
  bench.step();
  bench.commit();
  bench.add(request(SequenceId(5), 20));
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(1, 1, 6));
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(1, 1, 6));
}

TEST(Scheduler, SpreadsPromptsOverTheStages) {
  ExecutorLimits limits = roomy();
  limits.stages = 2;
  limits.max_step_tokens = 200;
  Bench bench(limits);
  for (int64_t id = 1; id <= 4; ++id) bench.add(request(SequenceId(id), 30));
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(30, 30));
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(30, 30)) << "what is in flight counts, too";
}

TEST(Scheduler, SpreadsNoPromptThatIsShort) {
  ExecutorLimits limits = roomy();
  limits.stages = 2;
  Bench bench(limits);
  bench.add(request(kA, 30));
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(30));
}

TEST(Scheduler, LetsAStageWaitForATokenWhenThereIsNothingElseToDo) {
  ExecutorLimits limits = roomy();
  limits.stages = 4;
  Bench bench(limits);
  bench.add(request(kA, 2));
  bench.step();
  EXPECT_THAT(bench.step().refs, ElementsAre(SampledRef{StepId(0), 0}));
}

/// Four blocks of two positions, all taken once A and B have two blocks each.
class ScarceBlocks : public testing::Test {
 protected:
  static ExecutorLimits scarce() {
    ExecutorLimits limits = roomy();
    limits.blocks = 4;
    limits.block_size = 2;
    return limits;
  }
};

TEST_F(ScarceBlocks, PreemptTheYoungest) {
  Bench bench(scarce(), {.lookahead = 0, .prefix_cache = false});
  bench.add(request(kA, 2, 6));
  bench.add(request(kB, 1, 6));
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(2, 1));
  bench.commit(31);
  EXPECT_THAT(slots(bench.step()), ElementsAre(SlotId(0), SlotId(1)));
  bench.commit(32);
  bench.step();
  bench.commit(33);
  EXPECT_EQ(bench.scheduler.stats().preemptions, 0);
  const StepBatch alone = bench.step();
  EXPECT_THAT(alone.chunks, ElementsAre(Chunk{SlotId(0), 4, 1, 1, true}));
  EXPECT_EQ(bench.scheduler.stats().preemptions, 1);
  EXPECT_EQ(bench.scheduler.snapshot().sequences.size(), 1U);
}

TEST_F(ScarceBlocks, AreGivenBackOnlyWhenTheYoungestIsNotInFlight) {
  Bench bench(scarce(), {.lookahead = 3, .prefix_cache = false});
  bench.add(request(kA, 2, 6));
  bench.add(request(kB, 1, 6));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(bench.step().chunks.size(), 2U);
  EXPECT_FALSE(bench.plan()) << "B is in flight, so A has to wait for its blocks";
  bench.commit();
  bench.commit();
  EXPECT_EQ(bench.scheduler.snapshot().sequences.size(), 2U);
  bench.commit();
  EXPECT_EQ(bench.scheduler.snapshot().sequences.size(), 1U);
  EXPECT_EQ(bench.step().chunks.size(), 1U);
}

TEST_F(ScarceBlocks, LetAPreemptedSequenceGoOnWhereItWas) {
  Bench bench(scarce(), {.lookahead = 0, .prefix_cache = false});
  bench.add(request(kA, 2, 4));
  bench.add(request(kB, 1, 6));
  for (TokenId token = 31; token <= 34; ++token) {
    bench.step();
    bench.commit(token);
  }
  // A ended with its fourth token; B had 3 tokens when it was preempted.
  const StepBatch resumed = bench.step();
  EXPECT_THAT(resumed.chunks, ElementsAre(Chunk{SlotId(0), 0, 4, 2, true}));
  EXPECT_THAT(resumed.tokens, ElementsAre(200, 31, 32, 33));
  bench.scheduler.take_events();
  bench.commit(50);
  const std::vector<SequenceEvent> events = bench.scheduler.take_events();
  ASSERT_EQ(events.size(), 1U) << "what was sampled before is not emitted again";
  EXPECT_EQ(events[0].token->token, 50);
}

TEST_F(ScarceBlocks, GoToThePreemptedBeforeThoseThatWait) {
  Bench bench(scarce(), {.lookahead = 0, .prefix_cache = false});
  bench.add(request(kA, 2, 4));
  bench.add(request(kB, 1, 6));
  bench.add(request(kC, 3, 1));
  for (int i = 0; i < 4; ++i) {
    bench.step();
    bench.commit();
  }
  EXPECT_EQ(bench.scheduler.stats().preemptions, 1);
  EXPECT_EQ(bench.step().tokens[0], 200) << "B came before C";
}

TEST(Scheduler, AdmitsOnlyWhileEveryRunningSequenceCanGrowByABlock) {
  ExecutorLimits limits = roomy();
  limits.blocks = 3;
  Bench bench(limits, {.lookahead = 0});
  bench.add(request(kA, 4, 4));
  bench.add(request(kB, 5, 4));
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(4)) << "B would take both free blocks";
  for (int i = 0; i < 3; ++i) {
    bench.commit();
    EXPECT_EQ(bench.step().chunks.size(), 1U);
  }
  bench.commit();
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(5));
}

TEST(Scheduler, PreemptsEveryKPlansButNeverTheOldest) {
  Bench bench(roomy(), {.lookahead = 0, .preempt_every_k = 1});
  bench.add(request(kA, 2, 3));
  for (int i = 0; i < 3; ++i) {
    bench.step();
    bench.commit();
  }
  EXPECT_EQ(bench.scheduler.stats().preemptions, 0);
  bench.add(request(kA, 2));
  bench.add(request(kB, 2));
  bench.step();
  bench.commit();
  bench.step();
  EXPECT_EQ(bench.scheduler.stats().preemptions, 1);
}

TEST(Scheduler, SharesACommonPrefixAndCountsItsTokens) {
  Bench bench(roomy());
  bench.add(request(kA, 10));
  bench.step();
  bench.commit();
  Request same = request(kB, 10);
  same.prompt = request(kA, 10).prompt;
  bench.add(same);
  const StepBatch batch = bench.step();
  EXPECT_THAT(batch.chunks[1], (Chunk{SlotId(1), 8, 2, 3, true}));
  EXPECT_EQ(batch.blocks[0], BlockId(0));
  EXPECT_EQ(bench.scheduler.stats().queried_tokens, 20);
  EXPECT_EQ(bench.scheduler.stats().hit_tokens, 8);
}

/// Three choices of a prompt of two full blocks of four and two tokens more.
class Choices : public testing::TestWithParam<bool> {
 protected:
  static Request three(int32_t prompt_tokens = 10) {
    Request out = request(kA, prompt_tokens);
    out.forks = {kB, kC};
    return out;
  }
  SchedulerOptions options(int32_t chunk_tokens = 0) const {
    return {.chunk_tokens = chunk_tokens, .lookahead = 0, .prefix_cache = GetParam()};
  }
};

TEST_P(Choices, ShareTheFullBlocksOfThePromptAndComputeTheRestPrivately) {
  Bench bench(roomy(), options());
  bench.add(three());
  EXPECT_THAT(bench.step().chunks, ElementsAre(Chunk{SlotId(0), 0, 10, 3, true}));
  bench.commit();
  const StepBatch forked = bench.step();
  EXPECT_THAT(forked.chunks,
              ElementsAre(Chunk{SlotId(0), 10, 1, 0, true}, Chunk{SlotId(1), 8, 2, 3, true},
                          Chunk{SlotId(2), 8, 2, 3, true}));
  EXPECT_THAT(forked.blocks,
              ElementsAre(BlockId(0), BlockId(1), BlockId(3), BlockId(0), BlockId(1), BlockId(4)));
  ASSERT_EQ(forked.starts.size(), 2U);
  EXPECT_EQ(forked.starts[0].sampling.choice, 1);
  EXPECT_EQ(forked.starts[1].sampling.choice, 2);
  EXPECT_EQ(bench.scheduler.stats().forked_tokens, 16);
  EXPECT_EQ(bench.scheduler.stats().queried_tokens, 10) << "one request";
  EXPECT_EQ(bench.scheduler.stats().hit_tokens, 0);
}

TEST_P(Choices, WaitForThePromptWhileLaterRequestsPass) {
  Bench bench(roomy(), options(/*chunk_tokens=*/5));
  bench.add(three());
  Request later = request(SequenceId(9), 3);
  bench.add(later);
  EXPECT_THAT(slots(bench.step()), ElementsAre(SlotId(0), SlotId(1)));
  EXPECT_THAT(slots(bench.step()), ElementsAre(SlotId(0)))
      << "eight positions are not computed yet";
  bench.commit();
  bench.commit();
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(1, 1, 2, 2));
}

TEST_P(Choices, OfAPromptWithinOneBlockShareNothing) {
  Bench bench(roomy(), options());
  bench.add(three(/*prompt_tokens=*/4));
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(4, 4, 4));
}

TEST_P(Choices, GoOnWhenTheOneThatComputesThePromptIsCancelled) {
  Bench bench(roomy(), options(/*chunk_tokens=*/5));
  bench.add(three());
  bench.step();
  bench.scheduler.cancel(kA);
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(5)) << "B starts over, C waits for B";
  bench.commit();
  bench.commit();
  bench.step();
  bench.commit();
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(1, 2));
  bench.scheduler.cancel(kB);
  bench.commit();
  EXPECT_EQ(bench.scheduler.snapshot().sequences.size(), 1U);
  EXPECT_EQ(bench.scheduler.snapshot().sequences[0].id, kC);
}

TEST_P(Choices, HaveTheirOwnEvents) {
  Bench bench(roomy(), options());
  Request request = three();
  request.max_new_tokens = 2;
  bench.add(request);
  for (int i = 0; i < 3; ++i) {
    bench.step();
    bench.commit();
  }
  std::vector<SequenceId> tokens;
  std::vector<SequenceId> ended;
  for (const SequenceEvent& event : bench.scheduler.take_events()) {
    tokens.push_back(event.id);
    if (event.finish == FinishReason::kLength) ended.push_back(event.id);
  }
  EXPECT_THAT(tokens, ElementsAre(kA, kA, kB, kC, kB, kC));
  EXPECT_THAT(ended, ElementsAre(kA, kB, kC));
}

TEST_P(Choices, CountTheSharedPromptOnceAsOutstanding) {
  Bench bench(roomy(), options());
  bench.add(three());
  EXPECT_EQ(bench.scheduler.load({}).outstanding_tokens, 10 + 20 + 2 * (2 + 20));
}

INSTANTIATE_TEST_SUITE_P(PrefixCache, Choices, testing::Bool(), [](const auto& test) {
  return test.param ? std::string("On") : std::string("Off");
});

TEST(Scheduler, TellsTheSamplerOnlyWhatItNeeds) {
  Bench bench(roomy(), {.lookahead = 0, .preempt_every_k = 3});
  bench.add(request(kC, 1));
  Request plain = request(kA, 3);
  plain.stop_tokens = {9};
  bench.add(plain);
  Request penalised = request(kB, 2);
  penalised.stop_tokens = {9};
  penalised.ignore_eos = true;
  penalised.sampling.presence_penalty = 1;
  penalised.sampling.min_tokens = 4;
  bench.add(penalised);
  const StepBatch first = bench.step();
  ASSERT_EQ(first.starts.size(), 3U);
  EXPECT_THAT(first.starts[1].history, IsEmpty());
  EXPECT_THAT(first.starts[1].stop_tokens, IsEmpty());
  EXPECT_EQ(first.starts[1].prompt_tokens, 3);
  EXPECT_THAT(first.starts[2].history, ElementsAre(200, 201));
  EXPECT_THAT(first.starts[2].stop_tokens, ElementsAre(9));
  bench.commit(31);
  EXPECT_THAT(bench.step().starts, IsEmpty());
  bench.commit(32);
  const StepBatch resumed = bench.step();  // preempted and admitted again in one plan
  ASSERT_EQ(resumed.starts.size(), 1U);
  EXPECT_THAT(resumed.starts[0].history, ElementsAre(200, 201, 31, 32));
  EXPECT_EQ(resumed.starts[0].prompt_tokens, 2);
}

TEST(Scheduler, RefusesSamplingParametersOutOfTheirRange) {
  const auto refusal_of = [](const SamplingParams& sampling) {
    Request bad = request(kA, 3);
    bad.sampling = sampling;
    return refusal(roomy(), bad);
  };
  EXPECT_EQ(refusal_of({.min_p = 1, .presence_penalty = -2, .min_tokens = 20}), "accepted");
  EXPECT_THAT(refusal_of({.temperature = -1}), HasSubstr("temperature is -1"));
  EXPECT_THAT(refusal_of({.top_k = -1}), HasSubstr("top_k is -1"));
  EXPECT_THAT(refusal_of({.top_p = 1.5F}), HasSubstr("top_p is 1.5, expected more than 0"));
  EXPECT_THAT(refusal_of({.min_p = -0.5F}), HasSubstr("min_p is -0.5, expected 0 to 1"));
  EXPECT_THAT(refusal_of({.repetition_penalty = 0}), HasSubstr("repetition_penalty is 0"));
  EXPECT_THAT(refusal_of({.presence_penalty = 3}), HasSubstr("expected -2 to 2"));
  EXPECT_THAT(refusal_of({.frequency_penalty = -3}), HasSubstr("frequency_penalty is -3"));
  EXPECT_THAT(refusal_of({.logit_bias = {{5, 101}}}), HasSubstr("token 5 is 101"));
  EXPECT_THAT(refusal_of({.logit_bias = {{5, 1}, {4, 1}}}), HasSubstr("rising tokens"));
  EXPECT_THAT(refusal_of({.min_tokens = 21}), HasSubstr("at most 20, the number of new tokens"));
  EXPECT_THAT(refusal_of({.choice = -1}), HasSubstr("choice is -1"));
  EXPECT_THAT(refusal_of({.logprobs = -2}), HasSubstr("logprobs is -2"));
}

TEST(Scheduler, ForgetsPrefixesWhenTheCacheIsCleared) {
  Bench bench(roomy());
  bench.add(request(kA, 10, 1));
  bench.step();
  bench.commit();
  EXPECT_EQ(bench.scheduler.load(request(kA, 10).prompt).known_tokens, 8);
  bench.scheduler.clear_prefix_cache();
  bench.add(request(kA, 10, 1));
  EXPECT_THAT(chunk_sizes(bench.step()), ElementsAre(10));
}

TEST(Scheduler, CancelsWaitingAndRunningSequencesOnce) {
  ExecutorLimits limits = roomy();
  limits.slots = 1;
  Bench bench(limits);
  bench.add(request(kA, 2));
  bench.add(request(kB, 2));
  bench.step();
  bench.scheduler.cancel(kB);
  bench.scheduler.cancel(kA);
  bench.scheduler.cancel(kA);
  bench.scheduler.cancel(kC);
  std::vector<SequenceId> cancelled;
  for (const SequenceEvent& event : bench.scheduler.take_events()) {
    EXPECT_EQ(event.finish, FinishReason::kCancelled);
    cancelled.push_back(event.id);
  }
  EXPECT_THAT(cancelled, ElementsAre(kB, kA));
  EXPECT_THAT(bench.scheduler.snapshot().free_slots, IsEmpty()) << "A's step is in flight";
  bench.commit();
  EXPECT_THAT(bench.scheduler.snapshot().free_slots, ElementsAre(SlotId(0)));
  EXPECT_THAT(bench.scheduler.take_events(), IsEmpty());
}

TEST(Scheduler, CountsOutstandingTokens) {
  Bench bench(roomy());
  bench.add(request(kA, 10, 5));
  EXPECT_EQ(bench.scheduler.load({}).outstanding_tokens, 15);
  bench.step();
  bench.commit();
  EXPECT_EQ(bench.scheduler.load({}).outstanding_tokens, 5);
  bench.scheduler.cancel(kA);
  EXPECT_EQ(bench.scheduler.load({}).outstanding_tokens, 0);
}

TEST(Scheduler, RecordsChunksBySequence) {
  Bench bench(roomy(), {.chunk_tokens = 4});
  bench.add(request(kA, 2));
  bench.add(request(kB, 6));
  bench.step();
  const StepRecord record = bench.commit();
  ASSERT_EQ(record.chunks.size(), 2U);
  EXPECT_EQ(record.chunks[0].sequence, kA);
  EXPECT_TRUE(record.chunks[0].sample);
  EXPECT_EQ(record.chunks[1].sequence, kB);
  EXPECT_EQ(record.chunks[1].num_tokens, 4);
  EXPECT_FALSE(record.chunks[1].sample);
}

}  // namespace
}  // namespace fourfold::engine
