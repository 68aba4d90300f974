#include "runtime/launch/step_collector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::runtime {
namespace {

using engine::StepId;
using engine::StepResult;

StageReport report(int64_t step, int stage, int32_t token = -1) {
  StageReport out{.step = StepId(step), .stage = stage, .output = {}};
  out.output.trace.push_back({.layer = stage, .row = 0, .hash = static_cast<uint64_t>(step)});
  engine::SampledToken sampled;
  sampled.token = token;
  if (token >= 0) out.output.sampled.push_back({sampled});
  return out;
}

// Ranks of pp2 dp2 tp2: stage 0 has replicas {0, 1} and {2, 3}, stage 1 {4, 5} and {6, 7}.
constexpr mesh::ParallelConfig kGroup{.pp = 2, .dp = 2, .tp = 2};

TEST(StepCollector, PutsStagesAndReplicasTogetherWhateverOrderTheyReportIn) {
  StepCollector collector(kGroup);
  collector.expect(StepId(5));
  EXPECT_FALSE(collector.ready());
  ASSERT_TRUE(collector.add(6, report(5, 1, 70)).ok());
  ASSERT_TRUE(collector.add(0, report(5, 0)).ok());
  ASSERT_TRUE(collector.add(4, report(5, 1, 60)).ok());
  EXPECT_FALSE(collector.ready());
  ASSERT_TRUE(collector.add(2, report(5, 0)).ok());
  ASSERT_TRUE(collector.ready());
  const StepResult result = collector.take();
  EXPECT_FALSE(result.failed);
  EXPECT_EQ(result.step, StepId(5));
  ASSERT_EQ(result.outputs.size(), 2U);
  EXPECT_EQ(result.outputs[0].sampled[0][0].token, 60);
  EXPECT_EQ(result.outputs[1].sampled[0][0].token, 70);
  for (const engine::StepOutput& output : result.outputs) {
    ASSERT_EQ(output.trace.size(), 2U);
    EXPECT_EQ(output.trace[0].layer, 0);
    EXPECT_EQ(output.trace[1].layer, 1);
  }
  EXPECT_EQ(collector.outstanding(), 0);
}

TEST(StepCollector, ALaterStepWaitsForTheOldest) {
  StepCollector collector({.pp = 2});
  collector.expect(StepId(0));
  collector.expect(StepId(1));
  ASSERT_TRUE(collector.add(0, report(0, 0)).ok());
  ASSERT_TRUE(collector.add(0, report(1, 0)).ok());
  ASSERT_TRUE(collector.add(1, report(1, 1, 8)).ok());
  EXPECT_FALSE(collector.ready());
  ASSERT_TRUE(collector.add(1, report(0, 1, 7)).ok());
  EXPECT_EQ(collector.take().outputs[0].sampled[0][0].token, 7);
  EXPECT_EQ(collector.take().outputs[0].sampled[0][0].token, 8);
}

TEST(StepCollector, RefusesAReportThatNobodyExpects) {
  StepCollector collector(kGroup);
  collector.expect(StepId(1));
  EXPECT_FALSE(collector.add(0, report(2, 0)).ok());
  EXPECT_FALSE(collector.add(1, report(1, 0)).ok());  // not shard 0
  EXPECT_TRUE(collector.add(0, report(1, 0)).ok());
  EXPECT_FALSE(collector.add(0, report(1, 0)).ok());  // twice
}

TEST(StepCollector, AfterAFailureStepsThatAreNotCompleteFailForTheFirstReason) {
  StepCollector collector({});
  for (int64_t step = 0; step < 3; ++step) collector.expect(StepId(step));
  ASSERT_TRUE(collector.add(0, report(0, 0, 9)).ok());
  collector.fail("first");
  collector.fail("second");
  EXPECT_FALSE(collector.take().failed);
  for (int64_t step = 1; step < 3; ++step) {
    const StepResult result = collector.take();
    EXPECT_TRUE(result.failed);
    EXPECT_EQ(result.step, StepId(step));
    EXPECT_EQ(result.failure, "first");
  }
  EXPECT_FALSE(collector.ready());
}

}  // namespace
}  // namespace fourfold::runtime
