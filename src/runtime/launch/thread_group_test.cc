#include "runtime/launch/thread_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <deque>
#include <functional>
#include <latch>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/launch/interrupt.h"

namespace fourfold::runtime {
namespace {

using engine::SlotId;
using engine::StepBatch;
using engine::StepId;
using engine::StepResult;
using testing::HasSubstr;

void no_progress(const std::string&) {}

/// A worker whose steps go through real collectives: the shards of a stage add up their parts of
/// the tokens' sum, and every stage adds 1000. Sampled is the last stage's sum; traced is each
/// stage's.
class FakeWorker final : public Worker {
 public:
  /// Called in every step of every rank, before its collectives.
  using Hook = std::function<void(int rank, StepId step)>;

  FakeWorker(const RankConfig& config, std::unique_ptr<comm::Communicator> group, Hook hook)
      : config_(config),
        rank_(group->rank()),
        at_(mesh::coordinates(config.group, rank_)),
        group_(std::move(group)),
        shards_(group_->split(at_.stage * config.group.dp + at_.replica, at_.shard,
                              mesh::Axis::kTensor)),
        stages_(group_->split(at_.replica * config.group.tp + at_.shard, at_.stage,
                              mesh::Axis::kPipeline)),
        hook_(std::move(hook)) {}

  void begin(const std::vector<StepBatch>& batches) override { report_ = run(batches); }
  StageReport finish() override { return std::move(report_); }
  StageReport run(const std::vector<StepBatch>& batches) {
    const StepBatch& batch = batches.at(static_cast<size_t>(at_.replica));
    hook_(rank_, batch.step);
    ++steps_;
    float sum = 0;
    if (at_.stage == 0) {
      for (size_t i = 0; i < batch.tokens.size(); ++i) {
        const bool mine = static_cast<int>(i) % shards_->size() == shards_->rank();
        if (mine) sum += static_cast<float>(batch.tokens[i]);
      }
    } else {
      float part = 0;
      stages_->recv(std::as_writable_bytes(std::span(&part, 1)), at_.stage - 1);
      if (at_.shard == 0) sum = part;
    }
    if (at_.shard == 0) sum += 1000;
    shards_->all_reduce_sum({&sum, 1}, comm::Wire::kF32);
    const bool last = at_.stage == config_.group.pp - 1;
    if (!last) stages_->send(std::as_bytes(std::span(&sum, 1)), at_.stage + 1);
    StageReport report{.step = batch.step, .stage = at_.stage, .output = {}};
    if (last) {
      engine::SampledToken token;
      token.token = static_cast<int32_t>(sum);
      report.output.sampled.push_back({token});
    }
    report.output.trace.push_back(
        {.layer = at_.stage, .row = 0, .hash = static_cast<uint64_t>(sum)});
    return report;
  }

  bool reports() const override { return at_.shard == 0; }
  RankMemory memory() const override {
    RankMemory memory;
    memory.weight_bytes = 100 + rank_;
    return memory;
  }
  base::Result<RankStats> stats(double /*peaks_s*/) override {
    RankStats stats;
    stats.steps = steps_;
    stats.rows = rank_;
    return stats;
  }

 private:
  RankConfig config_;
  int rank_;
  mesh::Coordinates at_;
  std::unique_ptr<comm::Communicator> group_;
  std::unique_ptr<comm::Communicator> shards_;
  std::unique_ptr<comm::Communicator> stages_;
  Hook hook_;
  StageReport report_;
  int64_t steps_ = 0;
};

std::unique_ptr<Worker> fake_worker(const RankConfig& config,
                                    std::unique_ptr<comm::Communicator> world,
                                    FakeWorker::Hook hook) {
  return std::make_unique<FakeWorker>(config, std::move(world), std::move(hook));
}

RankConfig config_of(const mesh::ParallelConfig& group) {
  RankConfig config;
  config.group = group;
  config.limits.replicas = group.dp;
  config.limits.stages = group.pp;
  config.limits.depth = group.pp + 1;
  return config;
}

base::Result<std::unique_ptr<GroupExecutor>> start_fakes(const mesh::ParallelConfig& group,
                                                         FakeWorker::Hook hook) {
  return start_thread_group(
      config_of(group), no_progress,
      [hook](const RankConfig& config, std::unique_ptr<comm::Communicator> world) {
        return fake_worker(config, std::move(world), hook);
      });
}

std::unique_ptr<GroupExecutor> fakes(
    const mesh::ParallelConfig& group, FakeWorker::Hook hook = [](int, StepId) {}) {
  return start_fakes(group, std::move(hook)).value();
}

/// One batch per replica; replica r has the tokens step * 10 + r + (0, 1, 2).
std::vector<StepBatch> batches_of(int64_t step, int replicas) {
  std::vector<StepBatch> batches(static_cast<size_t>(replicas));
  for (int r = 0; r < replicas; ++r) {
    StepBatch& batch = batches[static_cast<size_t>(r)];
    batch.step = StepId(step);
    const auto first = static_cast<int32_t>(step) * 10 + r;
    batch.tokens = {first, first + 1, first + 2};
    batch.chunks = {{.slot = SlotId(0), .num_tokens = 3, .sample = true}};
  }
  return batches;
}

int32_t tokens_sum(int64_t step, int replica) {
  return 3 * (static_cast<int32_t>(step) * 10 + replica) + 3;
}

TEST(ThreadGroup, GivesEveryStepsResultInTheOrderOfSubmission) {
  for (const mesh::ParallelConfig& group : {mesh::ParallelConfig{},
                                            {.tp = 4},
                                            {.pp = 3},
                                            {.pp = 2, .tp = 2},
                                            {.pp = 2, .dp = 2, .tp = 2}}) {
    SCOPED_TRACE(mesh::scheme_name(group));
    const std::unique_ptr<GroupExecutor> executor = fakes(group);
    constexpr int64_t kSteps = 50;
    int64_t submitted = 0;
    for (int64_t step = 0; step < kSteps; ++step) {
      while (submitted < kSteps && submitted - step < executor->limits().depth) {
        executor->submit(batches_of(submitted++, group.dp));
      }
      const StepResult result = executor->wait();
      ASSERT_FALSE(result.failed) << result.failure;
      EXPECT_EQ(result.step, StepId(step));
      ASSERT_EQ(std::ssize(result.outputs), group.dp);
      for (int r = 0; r < group.dp; ++r) {
        const engine::StepOutput& output = result.outputs[static_cast<size_t>(r)];
        ASSERT_EQ(output.sampled.size(), 1U);
        EXPECT_EQ(output.sampled[0][0].token, tokens_sum(step, r) + 1000 * group.pp);
        ASSERT_EQ(std::ssize(output.trace), group.pp);
        for (int stage = 0; stage < group.pp; ++stage) {
          const engine::LayerTrace& trace = output.trace[static_cast<size_t>(stage)];
          EXPECT_EQ(trace.layer, stage);
          EXPECT_EQ(trace.hash, static_cast<uint64_t>(tokens_sum(step, r) + 1000 * (stage + 1)));
        }
      }
    }
  }
}

TEST(ThreadGroup, KnowsWhatItsRanksHoldAndDid) {
  const std::unique_ptr<GroupExecutor> executor = fakes({.pp = 2, .tp = 2});
  ASSERT_EQ(executor->memory().size(), 4U);
  for (int64_t step = 0; step < 3; ++step) executor->submit(batches_of(step, 1));
  const base::Result<std::vector<RankStats>> stats = executor->stats();
  ASSERT_TRUE(stats.ok()) << stats.error().message;
  ASSERT_EQ(stats->size(), 4U);
  for (size_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(executor->memory()[rank].weight_bytes, static_cast<int64_t>(100 + rank));
    EXPECT_EQ((*stats)[rank].steps, 3);  // all that were submitted, though none was waited for
    EXPECT_EQ((*stats)[rank].rows, static_cast<int64_t>(rank));
  }
}

TEST(ThreadGroup, TellsHowManyRanksHaveLoaded) {
  std::vector<std::string> told;
  const auto group = start_thread_group(
      config_of({.tp = 2}), [&told](const std::string& word) { told.push_back(word); },
      [](const RankConfig& config, std::unique_ptr<comm::Communicator> world) {
        return fake_worker(config, std::move(world), [](int, StepId) {});
      });
  ASSERT_TRUE(group.ok());
  EXPECT_THAT(told, testing::Contains("2 of 2 ranks loaded"));
}

TEST(ThreadGroup, ARankThatCannotLoadEndsTheStartThoughTheOthersWaitForIt) {
  const auto group = start_thread_group(
      config_of({.pp = 2, .tp = 2}), no_progress,
      [](const RankConfig& config,
         std::unique_ptr<comm::Communicator> world) -> base::Result<std::unique_ptr<Worker>> {
        if (world->rank() == 2) return base::fail("no memory for 3 bytes");
        return fake_worker(config, std::move(world), [](int, StepId) {});
      });
  ASSERT_FALSE(group.ok());
  EXPECT_EQ(group.error().message, "rank 2 (stage 1, replica 0, shard 0): no memory for 3 bytes");
}

TEST(ThreadGroup, ARankThatFailsFailsItsStepAndEveryLaterOne) {
  const auto executor = fakes({.pp = 2, .tp = 2}, [](int rank, StepId step) {
    if (rank == 3 && step == StepId(2)) throw std::runtime_error("out of luck");
  });
  for (int64_t step = 0; step < 2; ++step) {
    executor->submit(batches_of(step, 1));
    EXPECT_FALSE(executor->wait().failed);
  }
  executor->submit(batches_of(2, 1));
  executor->submit(batches_of(3, 1));
  for (int64_t step = 2; step < 6; ++step) {
    if (step > 3) executor->submit(batches_of(step, 1));
    const StepResult result = executor->wait();
    EXPECT_TRUE(result.failed);
    EXPECT_EQ(result.step, StepId(step));
    EXPECT_EQ(result.failure, "rank 3 (stage 1, replica 0, shard 1): out of luck");
  }
  EXPECT_FALSE(executor->stats().ok());
}

TEST(ThreadGroup, AnAbortedCollectiveFailsTheGroupWithItsReason) {
  const auto executor = fakes({.tp = 2}, [](int rank, StepId) {
    if (rank == 1) throw comm::CommAborted{"the cable is cut"};
  });
  executor->submit(batches_of(0, 1));
  EXPECT_THAT(executor->wait().failure, HasSubstr("shard 1): the cable is cut"));
}

TEST(ThreadGroup, EndsWithStepsOutstanding) {
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto executor = fakes({.pp = 2, .tp = 2});
    for (int64_t step = 0; step < 3; ++step) executor->submit(batches_of(step, 1));
  }
}

/// Works on two steps at once, as one with a device does, and writes down what it is asked.
class AheadWorker final : public Worker {
 public:
  AheadWorker(std::vector<std::string>& log, std::latch& submitted)
      : log_(log), submitted_(submitted) {}
  void begin(const std::vector<StepBatch>& batches) override {
    submitted_.wait();  // by then the next step is there
    log_.push_back(fmt::format("begin {}", batches[0].step.value));
    begun_.push_back(batches[0].step);
  }
  StageReport finish() override {
    StageReport report{.step = begun_.front(), .stage = 0, .output = {}};
    begun_.pop_front();
    log_.push_back(fmt::format("finish {}", report.step.value));
    return report;
  }
  int depth() const override { return 2; }
  bool reports() const override { return true; }
  RankMemory memory() const override { return {}; }
  base::Result<RankStats> stats(double /*peaks_s*/) override {
    log_.push_back(fmt::format("stats with {} in progress", begun_.size()));
    return RankStats();
  }

 private:
  std::vector<std::string>& log_;
  std::latch& submitted_;
  std::deque<StepId> begun_;
};

TEST(ThreadGroup, BeginsTheNextStepBeforeTheLastIsFinishedAndStatisticsAfterAll) {
  std::vector<std::string> log;
  std::latch submitted(1);
  const auto executor =
      start_thread_group(
          config_of({}), no_progress,
          [&](const RankConfig&, std::unique_ptr<comm::Communicator>) {
            return std::unique_ptr<Worker>(std::make_unique<AheadWorker>(log, submitted));
          })
          .value();
  executor->submit(batches_of(0, 1));
  executor->submit(batches_of(1, 1));
  submitted.count_down();
  EXPECT_TRUE(executor->stats().ok());
  for (int64_t step = 0; step < 2; ++step) {
    const engine::StepResult result = executor->wait();
    EXPECT_FALSE(result.failed) << result.failure;
    EXPECT_EQ(result.step.value, step);
  }
  EXPECT_EQ(log, (std::vector<std::string>{"begin 0", "begin 1", "finish 0", "finish 1",
                                           "stats with 0 in progress"}));
}

/// Two ranks that wait for each other for ever.
class DeadlockedWorker final : public Worker {
 public:
  explicit DeadlockedWorker(std::unique_ptr<comm::Communicator> group) : group_(std::move(group)) {}
  void begin(const std::vector<StepBatch>& /*batches*/) override {
    std::byte byte{};
    group_->recv({&byte, 1}, 1 - group_->rank());
  }
  StageReport finish() override { return {}; }
  bool reports() const override { return true; }
  RankMemory memory() const override { return {}; }
  base::Result<RankStats> stats(double /*peaks_s*/) override { return RankStats(); }

 private:
  std::unique_ptr<comm::Communicator> group_;
};

[[noreturn]] void wait_interrupted() {
  install_interrupt_handler();
  const auto executor = start_thread_group(
      config_of({.tp = 2}), no_progress,
      [](const RankConfig&, std::unique_ptr<comm::Communicator> group) {
        return std::unique_ptr<Worker>(std::make_unique<DeadlockedWorker>(std::move(group)));
      });
  executor.value()->submit(batches_of(0, 1));
  raise(SIGTERM);
  const StepResult result = executor.value()->wait();
  std::_Exit(result.failed && result.failure == kInterrupted ? 0 : 1);
}

TEST(ThreadGroup, AnInterruptEndsAStepThatWouldNotEnd) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(wait_interrupted(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace fourfold::runtime
