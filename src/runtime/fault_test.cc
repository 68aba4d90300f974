#include "runtime/fault.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace fourfold::runtime {
namespace {

using comm::CallKind;
using comm::Operation;
using comm::Position;
using testing::HasSubstr;
using Action = FaultSpec::Action;

FaultSpec spec_of(std::string_view text) { return FaultSpec::parse(text).value(); }

TEST(FaultSpec, ReadsWhereAndHow) {
  const FaultSpec spec = spec_of(" rank=2 step=5  layer=3 op=mlp action=kill ");
  EXPECT_EQ(spec.rank, 2);
  EXPECT_EQ(spec.step, 5);
  EXPECT_EQ(spec.layer, 3);
  EXPECT_EQ(spec.operation, "mlp");
  EXPECT_EQ(spec.action, Action::kKill);
  const FaultSpec slow = spec_of("action=slow:50ms");
  EXPECT_EQ(slow.action, Action::kSlow);
  EXPECT_EQ(slow.delay, std::chrono::milliseconds(50));
  EXPECT_FALSE(slow.rank || slow.step || slow.layer);
  EXPECT_EQ(spec_of("op=all-reduce action=hang").operation, "all-reduce");
  EXPECT_EQ(spec_of("restart=1 action=hang").restart, 1);
  EXPECT_EQ(spec_of("token=77 action=hang").token, 77);
}

TEST(FaultSpec, NamesTheStepOfARequestThatFails) {
  const FaultSpec spec = spec_of("request=poison op=tokenize action=throw");
  EXPECT_EQ(spec.failing_step("{\"prompt\": \"poison\"}"), RequestStep::kTokenize);
  EXPECT_FALSE(spec.failing_step("{\"prompt\": \"water\"}"));
  EXPECT_FALSE(spec_of("op=mlp action=throw").failing_step("poison"));
  for (int i = 0; i < kRequestSteps; ++i) {
    const auto step = static_cast<RequestStep>(i);
    EXPECT_EQ(request_step(name_of(step)), step);
  }
}

TEST(RequestFault, IsThrownOnceAndOnlyWhereItIsToBe) {
  reach(RequestStep::kParse);
  const RequestFaultScope outer(RequestStep::kParse);
  reach(RequestStep::kTokenize);
  {
    const RequestFaultScope inner(std::nullopt);
    reach(RequestStep::kParse);
  }
  EXPECT_THROW(reach(RequestStep::kParse), std::runtime_error);
  reach(RequestStep::kParse);
}

TEST(FaultSpec, RefusesWhatItDoesNotUnderstandAndSaysWhatItExpects) {
  for (const std::string text : {"",
                                 "rank=2",
                                 "action=",
                                 "action=explode",
                                 "rank action=kill",
                                 "rank= action=kill",
                                 "rank=-1 action=kill",
                                 "rank=x action=kill",
                                 "step=1e9 action=kill",
                                 "rank=99999999999 action=kill",
                                 "op=dance action=kill",
                                 "op=tokenize action=throw",
                                 "request=poison action=throw",
                                 "request=poison op=mlp action=throw",
                                 "request=poison op=tokenize action=kill",
                                 "request=poison op=tokenize rank=0 action=throw",
                                 "request= op=tokenize action=throw",
                                 "color=red action=kill",
                                 "rank=1 rank=2 action=kill",
                                 "action=kill action=stop",
                                 "action=slow",
                                 "action=slow:ms",
                                 "action=slow:5s",
                                 "action=slow:-5ms",
                                 "action=slow:9999999999ms",
                                 "=kill",
                                 "action=kill,"}) {
    const base::Result<FaultSpec> spec = FaultSpec::parse(text);
    ASSERT_FALSE(spec.ok()) << text;
    EXPECT_THAT(spec.error().message, HasSubstr("FOURFOLD_FAULT")) << text;
    EXPECT_THAT(spec.error().message, HasSubstr("rank=2 step=5 layer=3 op=mlp action=kill"));
  }
}

TEST(FaultSpec, KnowsWhatThreadsCannotDo) {
  for (const std::string action : {"kill", "stop", "abort", "exit"}) {
    EXPECT_TRUE(spec_of("action=" + action).needs_process()) << action;
  }
  for (const std::string action : {"hang", "throw", "slow:1ms", "corrupt", "trap"}) {
    EXPECT_FALSE(spec_of("action=" + action).needs_process()) << action;
  }
}

TEST(Fault, HappensAtThatMarkOfThatRankOnly) {
  Fault fault(spec_of("rank=2 step=5 layer=3 op=mlp action=throw"));
  const Position here{.step = 5, .layer = 3, .operation = Operation::kMlp};
  fault.at(here, {});  // not yet told which rank this is
  fault.watch(1, 0);
  fault.at(here, {});
  fault.watch(2, 0);
  for (const Position& elsewhere :
       {Position{.step = 4, .layer = 3, .operation = Operation::kMlp},
        Position{.step = 5, .layer = 2, .operation = Operation::kMlp},
        Position{.step = 5, .layer = 3, .operation = Operation::kAttention},
        Position{.step = 5,
        .layer = 3,
        .operation = Operation::kMlp,
        .call = {{.kind = CallKind::kAllReduce}}}}) {
    fault.at(elsewhere, {});
  }
  EXPECT_THROW(fault.at(here, {}), std::runtime_error);
  fault.at(here, {});  // once is enough
}

TEST(Fault, HappensInThatLifeOfTheGroupOnly) {
  Fault fault(spec_of("restart=1 action=throw"));
  fault.watch(0, 0);
  fault.at({}, {});
  fault.watch(0, 2);
  fault.at({}, {});
  fault.watch(0, 1);
  EXPECT_THROW(fault.at({}, {}), std::runtime_error);
}

TEST(Fault, HappensInAStepThatHasTheToken) {
  Fault fault(spec_of("token=77 op=embed action=throw"));
  fault.watch(0, 0);
  const Position here{.operation = Operation::kEmbed};
  fault.at(here, {});
  std::vector<engine::StepBatch> batches(2);
  batches[1].tokens = {5, 78};
  fault.begin(batches);
  fault.at(here, {});
  batches[1].tokens = {5, 77};
  fault.begin(batches);
  fault.at({.operation = Operation::kInputs}, {});
  EXPECT_THROW(fault.at(here, {}), std::runtime_error);
}

TEST(Fault, ACallIsAnOperationToo) {
  Fault fault(spec_of("op=all-reduce action=throw"));
  fault.watch(0, 0);
  fault.at({.operation = Operation::kMlp}, {});
  EXPECT_THROW(
      fault.at({.operation = Operation::kMlp, .call = {{.kind = CallKind::kAllReduce}}}, {}),
      std::runtime_error);
}

TEST(Fault, CorruptsOneValueAtEveryMark) {
  Fault fault(spec_of("layer=1 action=corrupt"));
  fault.watch(0, 0);
  std::vector<float> residual = {2, 5};
  fault.at({.layer = 0}, residual);
  EXPECT_EQ(residual, (std::vector<float>{2, 5}));
  fault.at({.layer = 1}, residual);
  EXPECT_EQ(residual, (std::vector<float>{3, 5}));
  fault.at({.layer = 1}, residual);
  EXPECT_EQ(residual, (std::vector<float>{2, 5}));
}

TEST(Fault, BreaksTheDeviceThatItWasToldOf) {
  Fault fault(spec_of("layer=1 action=trap"));
  fault.watch(0, 0);
  int broken = 0;
  comm::Progress progress(&fault);
  progress.enter(Operation::kMlp, 1);  // there is no device yet
  Fault again(spec_of("layer=1 action=trap"));
  again.watch(0, 0);
  comm::Progress told(&again);
  told.tell_device([&] { ++broken; });
  told.enter(Operation::kMlp, 0);
  EXPECT_EQ(broken, 0);
  told.enter(Operation::kMlp, 1);
  told.enter(Operation::kMlp, 1);
  EXPECT_EQ(broken, 1);
}

TEST(Fault, AHangEndsWhenItIsReleased) {
  Fault fault(spec_of("action=hang"));
  fault.watch(0, 0);
  std::thread rank([&] { fault.at({}, {}); });
  fault.release();
  rank.join();
}

void misbehave(std::string_view text) {
  Fault fault(spec_of(text));
  fault.watch(0, 0);
  fault.at({}, {});
}

TEST(Fault, EndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(misbehave("action=kill"), testing::KilledBySignal(SIGKILL), "");
  EXPECT_EXIT(misbehave("action=exit"), testing::ExitedWithCode(3), "");
}

}  // namespace
}  // namespace fourfold::runtime
