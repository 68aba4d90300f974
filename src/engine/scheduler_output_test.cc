// Outputs that are constrained, and outputs that another scheduler began.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <memory>
#include <vector>

#include "engine/scheduler.h"
#include "engine/scheduler_bench_test.h"

namespace fourfold::engine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// Allows token n as the n-th, from 1 to `last`; behind that there is none.
class CountingConstraint final : public text::TokenConstraint {
 public:
  explicit CountingConstraint(TokenId last) : last_(last) {}
  std::unique_ptr<Walk> begin() const override { return std::make_unique<CountingWalk>(last_); }

 private:
  class CountingWalk final : public Walk {
   public:
    explicit CountingWalk(TokenId last) : last_(last) {}
    base::Result<std::shared_ptr<const text::TokenMask>> allowed() override {
      if (next_ > last_) return base::fail("nothing follows {}", last_);
      return std::make_shared<const text::TokenMask>(text::TokenMask{1U << next_});
    }
    base::Status accept(TokenId token) override {
      if (token != next_) return base::fail("{} is not {}", token, next_);
      ++next_;
      return {};
    }

   private:
    TokenId last_;
    TokenId next_ = 1;
  };
  TokenId last_;
};

TEST(Scheduler, DoesNotRunAheadOfAConstrainedSequenceAndMasksItsRows) {
  Bench bench(roomy());
  Request constrained = request(kA, 6);
  constrained.constraint = std::make_shared<CountingConstraint>(9);
  bench.add(constrained);
  bench.add(request(kB, 3));
  const StepBatch prompts = bench.step();
  ASSERT_EQ(prompts.masks.size(), 1u);
  EXPECT_EQ(prompts.masks[0], (RowMask{0, {1U << 1}}));
  // Only the other one goes on before the result is there.
  const StepBatch ahead = bench.step();
  EXPECT_THAT(chunk_sizes(ahead), ElementsAre(1));
  EXPECT_EQ(ahead.chunks[0].slot, prompts.chunks[1].slot);
  EXPECT_THAT(ahead.masks, IsEmpty());
  bench.commit(1);
  const StepBatch next = bench.step();
  ASSERT_EQ(next.masks.size(), 1u);
  EXPECT_EQ(next.masks[0].allowed, text::TokenMask{1U << 2});
}

TEST(Scheduler, TheChoicesOfAConstrainedPromptGoTheirOwnWays) {
  Bench bench(roomy());
  Request constrained = request(kA, 6);
  constrained.forks = {kB};
  constrained.constraint = std::make_shared<CountingConstraint>(9);
  bench.add(constrained);
  bench.step();
  bench.commit(1);
  const StepBatch both = bench.step();  // the second one samples its first token
  ASSERT_EQ(both.masks.size(), 2u);
  EXPECT_EQ(both.masks[0], (RowMask{0, {1U << 2}}));
  EXPECT_EQ(both.masks[1], (RowMask{1, {1U << 1}}));
}

TEST(Scheduler, AConstraintHoldsBehindAnOutputThatAnotherOneSampled) {
  Bench bench(roomy());
  Request resumed = request(kA, 6);
  resumed.constraint = std::make_shared<CountingConstraint>(9);
  resumed.output = {1, 2, 3};
  bench.add(resumed);
  const StepBatch first = bench.step();
  ASSERT_EQ(first.masks.size(), 1u);
  EXPECT_EQ(first.masks[0].allowed, text::TokenMask{1U << 4});
  resumed.id = kB;
  resumed.output = {1, 3};
  EXPECT_THAT(bench.scheduler.add(resumed).error().message, HasSubstr("3 is not 2"));
}

TEST(Scheduler, AConstraintSurvivesPreemption) {
  Bench bench(roomy(), {.preempt_every_k = 2});
  Request constrained = request(kB, 6, 4);
  constrained.constraint = std::make_shared<CountingConstraint>(20);
  bench.add(request(kA, 3));
  bench.add(constrained);
  std::vector<SequenceEvent> events;
  for (TokenId token = 1; token < 20; ++token) {
    const StepBatch batch = bench.step();
    for (const RowMask& mask : batch.masks) {
      EXPECT_EQ(mask.allowed[0] & (mask.allowed[0] - 1), 0u);
    }
    // All rows get the token that the constrained one may have.
    const bool masked = !batch.masks.empty();
    TokenId next = 7;
    if (masked) next = static_cast<TokenId>(std::countr_zero(batch.masks[0].allowed[0]));
    bench.commit(next);
    for (SequenceEvent& event : bench.scheduler.take_events()) {
      if (event.id == kB) events.push_back(std::move(event));
    }
    if (!events.empty() && events.back().finish) break;
  }
  ASSERT_EQ(events.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(events[i].token->token, static_cast<TokenId>(i) + 1);
  EXPECT_GT(bench.scheduler.stats().preemptions, 0);
}

TEST(Scheduler, ASequenceWhoseConstraintCannotBeFollowedEndsAlone) {
  Bench bench(roomy());
  Request constrained = request(kA, 6);
  constrained.constraint = std::make_shared<CountingConstraint>(1);
  bench.add(constrained);
  bench.add(request(kB, 3));
  bench.step();
  bench.commit(1);
  const std::vector<SequenceEvent> events = bench.scheduler.take_events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].finish, FinishReason::kUnmet);
  EXPECT_THAT(events[0].failure, HasSubstr("nothing follows 1"));
  EXPECT_FALSE(events[1].finish);
  EXPECT_EQ(bench.scheduler.unfinished(), 1);
  constrained.constraint = std::make_shared<CountingConstraint>(0);
  constrained.id = kC;
  EXPECT_FALSE(bench.scheduler.add(constrained).ok());
}

TEST(Scheduler, GoesOnBehindAnOutputThatAnotherOneSampled) {
  Bench bench(roomy());
  Request resumed = request(kA, /*prompt_tokens=*/6, /*max_new_tokens=*/5);
  resumed.output = {7, 8, 9};
  resumed.sampling.repetition_penalty = 1.5F;
  bench.add(resumed);
  const StepBatch first = bench.step();
  EXPECT_THAT(chunk_sizes(first), ElementsAre(9));
  EXPECT_EQ(first.starts.at(0).prompt_tokens, 6);
  EXPECT_EQ(first.starts.at(0).history.size(), 9U);
  bench.commit(20);
  bench.step();
  bench.commit(21);
  const std::vector<SequenceEvent> events = bench.scheduler.take_events();
  ASSERT_EQ(events.size(), 2U) << "the first three are known";
  EXPECT_EQ(events[0].token->token, 20);
  EXPECT_EQ(events[1].token->token, 21);
  EXPECT_EQ(events[1].finish, FinishReason::kLength);
}

TEST(Scheduler, RefusesAnOutputThatIsCompleteOrOfSeveralChoices) {
  Scheduler scheduler(roomy(), {});
  Request complete = request(kA, 6, 2);
  complete.output = {7, 8};
  EXPECT_THAT(scheduler.add(complete).error().message, HasSubstr("cannot go on"));
  Request several = request(kB, 6, 5);
  several.output = {7};
  several.forks = {kC};
  EXPECT_THAT(scheduler.add(several).error().message, HasSubstr("2 choices"));
  Request negative = request(kC, 6, 5);
  negative.output = {-1};
  EXPECT_THAT(scheduler.add(negative).error().message, HasSubstr("output has token -1"));
}

}  // namespace
}  // namespace fourfold::engine
