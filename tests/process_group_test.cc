// Ranks as processes: that they answer as threads do, and that whoever dies, is stopped or is
// interrupted is named, and nothing is left of it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "files/scratch_folder.h"
#include "runtime/fault.h"
#include "runtime/group_executor.h"
#include "runtime/launch/child_process.h"
#include "tests/support/processes.h"

namespace fourfold::tests {
namespace {

using engine::BlockId;
using engine::SlotId;
using engine::StepBatch;
using engine::StepId;
using engine::StepResult;
using runtime::GroupExecutor;
using runtime::RankConfig;
using runtime::RankMode;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::StartsWith;

/// What the product promises for a dead rank and for Ctrl-C.
constexpr milliseconds kPromise(1000);
/// For things to come up on a machine that is busy with something else.
constexpr seconds kPatience(60);

RankConfig tiny_config(const mesh::ParallelConfig& group) {
  RankConfig config;
  config.model = "tiny";
  config.group = group;
  config.limits = {.replicas = 1,
                   .stages = group.pp,
                   .depth = group.pp + 1,
                   .slots = 4,
                   .max_step_tokens = 64,
                   .block_size = 16,
                   .blocks = 16,
                   .max_positions = 64};
  return config;
}

void no_progress(const std::string&) {}

std::unique_ptr<GroupExecutor> start(const RankConfig& config, RankMode mode) {
  base::Result<std::unique_ptr<GroupExecutor>> group =
      runtime::start_group(config, mode, no_progress, FOURFOLD_BINARY);
  EXPECT_TRUE(group.ok()) << (group.ok() ? "" : group.error().message);
  return group.ok() ? std::move(group).value() : nullptr;
}

/// Step 0 is the prompt of one sequence, every later one the token sampled before, traced.
std::vector<StepBatch> step_of(int64_t step) {
  StepBatch batch;
  batch.step = StepId(step);
  batch.trace = true;
  if (step == 0) {
    batch.starts = {{SlotId(0), {.temperature = 1.0F, .seed = 5}}};
    batch.tokens = {5, 6, 7, 8, 9, 10, 11, 12};
    batch.blocks = {BlockId(0), BlockId(1), BlockId(2), BlockId(3)};
  } else {
    batch.tokens = {-1};
    batch.refs = {{StepId(step - 1), 0}};
  }
  const auto tokens = static_cast<int32_t>(batch.tokens.size());
  batch.chunks = {{.slot = SlotId(0),
                   .position = step == 0 ? 0 : static_cast<int32_t>(step) + 7,
                   .num_tokens = tokens,
                   .num_blocks = static_cast<int32_t>(batch.blocks.size()),
                   .sample = true}};
  return {batch};
}

/// Runs `steps` steps, as many at once as the group takes.
std::vector<StepResult> run_steps(GroupExecutor& group, int64_t steps) {
  std::vector<StepResult> results;
  int64_t submitted = 0;
  while (std::ssize(results) < steps) {
    while (submitted < steps && submitted - std::ssize(results) < group.limits().depth) {
      group.submit(step_of(submitted++));
    }
    results.push_back(group.wait());
  }
  return results;
}

/// Gives the groups of a test a folder for temporary files, in which nothing may be left.
class ProcessGroup : public testing::Test {
 protected:
  ProcessGroup() {
    std::filesystem::create_directory(temporary_);
    setenv("TMPDIR", temporary_.c_str(), 1);
  }
  ~ProcessGroup() override { unsetenv("TMPDIR"); }

  bool nothing_left() const { return std::filesystem::is_empty(temporary_); }

  /// A front as a process of its own, that will be busy for long.
  runtime::ChildProcess start_front() const {
    return runtime::ChildProcess::spawn(
               {.args = {FOURFOLD_BINARY, "verify", "tiny", "--devices", "4", "--schemes", "tp2pp2",
                         "--concurrency", "1", "--output-len", "200"},
                .environment = {},
                .output = folder_.path() / "output"})
        .value();
  }

  /// All processes below `root`, mpirun included.
  static std::vector<pid_t> pids_below(pid_t root) {
    std::vector<pid_t> pids;
    for (const Process& process : descendants(root)) pids.push_back(process.pid);
    return pids;
  }

  static bool all_gone(const std::vector<pid_t>& pids) {
    return std::none_of(pids.begin(), pids.end(), is_alive);
  }

 private:
  files::ScratchFolder folder_;
  std::filesystem::path temporary_ = folder_.path() / "tmp";
};

class SchemeAsProcesses : public ProcessGroup,
                          public testing::WithParamInterface<mesh::ParallelConfig> {};

TEST_P(SchemeAsProcesses, GivesWhatThreadsGiveAndLeavesNothing) {
  const RankConfig config = tiny_config(GetParam());
  const std::unique_ptr<GroupExecutor> threads = start(config, RankMode::kThreads);
  std::unique_ptr<GroupExecutor> processes = start(config, RankMode::kProcesses);
  ASSERT_TRUE(threads && processes);
  const std::vector<pid_t> pids = pids_below(getpid());
  EXPECT_EQ(std::ssize(ranks_of(getpid())), config.group.devices());

  constexpr int64_t kSteps = 30;
  const std::vector<StepResult> expected = run_steps(*threads, kSteps);
  const std::vector<StepResult> results = run_steps(*processes, kSteps);
  for (size_t i = 0; i < results.size(); ++i) {
    ASSERT_FALSE(results[i].failed) << results[i].failure;
    EXPECT_EQ(results[i].step, expected[i].step);
    EXPECT_EQ(results[i].outputs[0].sampled, expected[i].outputs[0].sampled);
    EXPECT_EQ(results[i].outputs[0].trace, expected[i].outputs[0].trace);
    EXPECT_GE(results[i].outputs[0].trace.size(), 9U);
  }
  const base::Result<std::vector<runtime::RankStats>> stats = processes->stats();
  ASSERT_TRUE(stats.ok()) << stats.error().message;
  ASSERT_EQ(std::ssize(*stats), config.group.devices());
  for (size_t rank = 0; rank < stats->size(); ++rank) {
    EXPECT_EQ((*stats)[rank].steps, kSteps);
    EXPECT_EQ(processes->memory()[rank].weight_bytes, threads->memory()[rank].weight_bytes);
    EXPECT_EQ(processes->memory()[rank].kv_bytes, threads->memory()[rank].kv_bytes);
  }

  const auto begin = std::chrono::steady_clock::now();
  processes.reset();
  EXPECT_LE(std::chrono::steady_clock::now() - begin, kPromise);
  EXPECT_TRUE(all_gone(pids));
  EXPECT_TRUE(nothing_left());
}

INSTANTIATE_TEST_SUITE_P(Tiny, SchemeAsProcesses,
                         testing::Values(mesh::ParallelConfig{}, mesh::ParallelConfig{.tp = 2},
                                         mesh::ParallelConfig{.pp = 2},
                                         mesh::ParallelConfig{.pp = 2, .tp = 2},
                                         mesh::ParallelConfig{.tp = 8}),
                         [](const auto& test) { return mesh::scheme_name(test.param); });

/// Starts a group, does `harm` to one of its processes during steps, and gives the failure.
struct Harmed {
  std::string failure;
  std::chrono::nanoseconds took;
};

template <typename Harm>
Harmed fail_during_steps(GroupExecutor& group, Harm harm) {
  for (const StepResult& result : run_steps(group, 5)) EXPECT_FALSE(result.failed);
  const auto begin = std::chrono::steady_clock::now();
  harm();
  for (int64_t step = 5;; ++step) {
    group.submit(step_of(step % 40));
    const StepResult result = group.wait();
    if (result.failed) return {result.failure, std::chrono::steady_clock::now() - begin};
    if (std::chrono::steady_clock::now() - begin > kPatience) return {"", {}};
  }
}

TEST_F(ProcessGroup, NamesTheRankThatWasKilledWithinASecondAndLeavesNothing) {
  for (int victim = 0; victim < 4; ++victim) {
    SCOPED_TRACE(victim);
    std::unique_ptr<GroupExecutor> group =
        start(tiny_config({.pp = 2, .tp = 2}), RankMode::kProcesses);
    ASSERT_TRUE(group);
    const std::vector<pid_t> pids = pids_below(getpid());
    const pid_t pid = ranks_of(getpid()).at(victim);
    const Harmed harmed = fail_during_steps(*group, [pid] { kill(pid, SIGKILL); });
    EXPECT_EQ(
        harmed.failure,
        fmt::format("rank {} (stage {}, replica 0, shard {}, pid {}) ended without a word, as "
                    "a process does that gets SIGKILL",
                    victim, victim / 2, victim % 2, pid));
    EXPECT_LE(harmed.took, kPromise);
    EXPECT_TRUE(wait_for(kPromise, [&] { return all_gone(pids); }));

    group->submit(step_of(0));
    EXPECT_EQ(group->wait().failure, harmed.failure);
    EXPECT_FALSE(group->stats().ok());
    group.reset();
    EXPECT_TRUE(nothing_left());
  }
}

TEST_F(ProcessGroup, KnowsTheSignalThatEndedAnOnlyRank) {
  std::unique_ptr<GroupExecutor> group = start(tiny_config({}), RankMode::kProcesses);
  ASSERT_TRUE(group);
  const pid_t pid = ranks_of(getpid()).at(0);
  const Harmed harmed = fail_during_steps(*group, [pid] { kill(pid, SIGTERM); });
  EXPECT_EQ(harmed.failure,
            fmt::format("rank 0 (stage 0, replica 0, shard 0, pid {}) was killed by SIGTERM", pid));
  EXPECT_LE(harmed.took, kPromise);
  group.reset();
  EXPECT_TRUE(nothing_left());
}

TEST_F(ProcessGroup, KnowsFaultsOfARanksOwn) {
  for (const mesh::ParallelConfig& scheme :
       {mesh::ParallelConfig{}, mesh::ParallelConfig{.pp = 2, .tp = 2}}) {
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGABRT}) {
      SCOPED_TRACE(fmt::format("{}, signal {}", mesh::scheme_name(scheme), signal));
      std::unique_ptr<GroupExecutor> group = start(tiny_config(scheme), RankMode::kProcesses);
      ASSERT_TRUE(group);
      const int victim = scheme.devices() - 1;
      const pid_t pid = ranks_of(getpid()).at(victim);
      const Harmed harmed = fail_during_steps(*group, [&] { kill(pid, signal); });
      EXPECT_THAT(harmed.failure, StartsWith(fmt::format("rank {} (", victim)));
      EXPECT_THAT(harmed.failure, HasSubstr(fmt::format(", pid {}) was killed by SIG{}", pid,
                                                        sigabbrev_np(signal))));
      EXPECT_LE(harmed.took, kPromise);
      EXPECT_EQ(group->failure()->cause, runtime::FailureCause::kCrashed);
      EXPECT_EQ(group->failure()->text, harmed.failure);
    }
  }
}

TEST_F(ProcessGroup, AnExceptionIsAFaultOfARanksOwn) {
  setenv(runtime::kFaultVariable, "rank=1 step=6 op=mlp action=throw", 1);
  std::unique_ptr<GroupExecutor> group = start(tiny_config({.tp = 2}), RankMode::kProcesses);
  unsetenv(runtime::kFaultVariable);
  ASSERT_TRUE(group);
  EXPECT_THAT(fail_during_steps(*group, [] {}).failure, HasSubstr("FOURFOLD_FAULT said so"));
  EXPECT_EQ(group->failure()->cause, runtime::FailureCause::kCrashed);
}

TEST_F(ProcessGroup, MissesARankOfAnIdleGroup) {
  for (const int tp : {1, 2}) {
    std::unique_ptr<GroupExecutor> group = start(tiny_config({.tp = tp}), RankMode::kProcesses);
    ASSERT_TRUE(group);
    std::promise<void> failed;
    group->on_failure([&] { failed.set_value(); });
    kill(ranks_of(getpid()).at(0), SIGKILL);
    EXPECT_EQ(failed.get_future().wait_for(kPromise), std::future_status::ready);
    const runtime::GroupFailure failure = group->failure().value();
    EXPECT_EQ(failure.cause, runtime::FailureCause::kKilled);
    EXPECT_THAT(failure.text, HasSubstr("rank 0 ("));
    EXPECT_LT(failure.detection_s, 1);
  }
}

TEST_F(ProcessGroup, NamesARankThatIsStopped) {
  std::unique_ptr<GroupExecutor> group = start(tiny_config({.tp = 2}), RankMode::kProcesses);
  ASSERT_TRUE(group);
  const std::vector<pid_t> pids = pids_below(getpid());
  const pid_t pid = ranks_of(getpid()).at(1);
  const Harmed harmed = fail_during_steps(*group, [pid] { kill(pid, SIGSTOP); });
  EXPECT_THAT(
      harmed.failure,
      StartsWith(fmt::format("rank 1 (stage 0, replica 0, shard 1, pid {}) has not answered for "
                             "3 s: it is stopped or hung, last seen in ",
                             pid)));
  EXPECT_LE(harmed.took, seconds(5));
  group.reset();
  EXPECT_TRUE(all_gone(pids));
  EXPECT_TRUE(nothing_left());
}

TEST_F(ProcessGroup, NamesARankThatHangsWithItsStepLayerAndOperation) {
  setenv(runtime::kFaultVariable, "rank=3 step=6 layer=6 op=mlp action=hang", 1);
  std::unique_ptr<GroupExecutor> group =
      start(tiny_config({.pp = 2, .tp = 2}), RankMode::kProcesses);
  unsetenv(runtime::kFaultVariable);
  ASSERT_TRUE(group);
  const std::vector<pid_t> pids = pids_below(getpid());
  const pid_t pid = ranks_of(getpid()).at(3);
  const Harmed harmed = fail_during_steps(*group, [] {});
  EXPECT_THAT(
      harmed.failure,
      StartsWith(fmt::format("rank 3 (stage 1, replica 0, shard 1, pid {}) hangs in step 6, layer "
                             "6, mlp for ",
                             pid)));
  EXPECT_THAT(harmed.failure,
              HasSubstr("; rank 2 waits for it in step 6, layer 6, mlp, in all-reduce "));
  group.reset();
  EXPECT_TRUE(all_gone(pids));
  EXPECT_TRUE(nothing_left());
}

TEST_F(ProcessGroup, NamesARankThatHangsThoughRanksAreThreads) {
  setenv(runtime::kFaultVariable, "rank=1 step=6 layer=2 op=attention action=hang", 1);
  std::unique_ptr<GroupExecutor> group = start(tiny_config({.tp = 2}), RankMode::kThreads);
  unsetenv(runtime::kFaultVariable);
  ASSERT_TRUE(group);
  const Harmed harmed = fail_during_steps(*group, [] {});
  EXPECT_THAT(harmed.failure, StartsWith("rank 1 (stage 0, replica 0, shard 1) hangs in step 6, "
                                         "layer 2, attention for "));
}

TEST_F(ProcessGroup, ASlowRankIsNoHang) {
  setenv(runtime::kFaultVariable, "rank=1 op=mlp action=slow:20ms", 1);
  std::unique_ptr<GroupExecutor> group = start(tiny_config({.tp = 2}), RankMode::kProcesses);
  unsetenv(runtime::kFaultVariable);
  ASSERT_TRUE(group);
  for (const StepResult& result : run_steps(*group, 10)) EXPECT_FALSE(result.failed);
}

TEST_F(ProcessGroup, RefusesAFaultThatItDoesNotUnderstandOrThatThreadsCannotHave) {
  setenv(runtime::kFaultVariable, "rank=1 action=dance", 1);
  for (const RankMode mode : {RankMode::kProcesses, RankMode::kThreads}) {
    const auto group = runtime::start_group(tiny_config({}), mode, no_progress, FOURFOLD_BINARY);
    ASSERT_FALSE(group.ok());
    EXPECT_THAT(group.error().message, StartsWith("FOURFOLD_FAULT has \"action=dance\": expected"));
  }
  setenv(runtime::kFaultVariable, "action=kill", 1);
  const auto group = runtime::start_group(tiny_config({}), RankMode::kThreads, no_progress);
  unsetenv(runtime::kFaultVariable);
  ASSERT_FALSE(group.ok());
  EXPECT_THAT(group.error().message, HasSubstr("--ranks processes"));
}

TEST_F(ProcessGroup, NoticesTheEndOfMpirun) {
  std::unique_ptr<GroupExecutor> group = start(tiny_config({.tp = 2}), RankMode::kProcesses);
  ASSERT_TRUE(group);
  const std::vector<pid_t> pids = pids_below(getpid());
  const pid_t mpirun = find_process(ranks_of(getpid()).at(0))->parent;
  const Harmed harmed = fail_during_steps(*group, [mpirun] { kill(mpirun, SIGKILL); });
  EXPECT_THAT(harmed.failure, StartsWith("mpirun was killed by SIGKILL"));
  EXPECT_LE(harmed.took, kPromise);
  EXPECT_TRUE(wait_for(kPromise, [&] { return all_gone(pids); }));
  group.reset();
  EXPECT_TRUE(nothing_left());
}

TEST_F(ProcessGroup, SaysWhyARankCannotLoad) {
  for (const mesh::ParallelConfig& scheme : {mesh::ParallelConfig{}, {.tp = 2}}) {
    RankConfig config = tiny_config(scheme);
    config.model = "/nowhere/model";
    const base::Result<std::unique_ptr<GroupExecutor>> group =
        runtime::start_group(config, RankMode::kProcesses, no_progress, FOURFOLD_BINARY);
    ASSERT_FALSE(group.ok());
    EXPECT_THAT(group.error().message, StartsWith("rank "));
    EXPECT_THAT(group.error().message, HasSubstr("/nowhere/model"));
    EXPECT_TRUE(wait_for(kPromise, [] { return descendants(getpid()).empty(); }));
    EXPECT_TRUE(nothing_left());
  }
}

TEST_F(ProcessGroup, SaysHowAProgramEndedThatIsNoWorker) {
  const base::Result<std::unique_ptr<GroupExecutor>> one =
      runtime::start_group(tiny_config({}), RankMode::kProcesses, no_progress, "/bin/false");
  ASSERT_FALSE(one.ok());
  EXPECT_EQ(one.error().message, "rank 0 (stage 0, replica 0, shard 0) exited with status 1");
  const base::Result<std::unique_ptr<GroupExecutor>> two = runtime::start_group(
      tiny_config({.tp = 2}), RankMode::kProcesses, no_progress, "/nowhere/fourfold");
  ASSERT_FALSE(two.ok());
  EXPECT_EQ(two.error().message, "cannot start /nowhere/fourfold: No such file or directory");
  EXPECT_TRUE(nothing_left());
}

TEST_F(ProcessGroup, AKilledFrontTakesItsRanksAlongAtWhateverTime) {
  // Below a front are first a guard and the only rank that the others are compared with, later a
  // guard, mpirun and one rank after the other.
  for (const size_t processes : {1, 2, 3, 4, 6}) {
    SCOPED_TRACE(processes);
    runtime::ChildProcess front = start_front();
    std::vector<pid_t> pids;
    ASSERT_TRUE(wait_for(kPatience, [&] {
      pids = pids_below(front.pid());
      return pids.size() >= processes;
    }));
    kill(front.pid(), SIGKILL);
    EXPECT_TRUE(wait_for(kPromise, [&] { return all_gone(pids); }));
    EXPECT_TRUE(wait_for(kPromise, [&] { return nothing_left(); }));
  }
}

TEST_F(ProcessGroup, CtrlCEndsAllWithinASecondAndLeavesNothing) {
  for (const int signal : {SIGINT, SIGTERM}) {
    runtime::ChildProcess front = start_front();
    std::vector<pid_t> pids;
    ASSERT_TRUE(wait_for(kPatience, [&] {
      pids = pids_below(front.pid());
      return ranks_of(front.pid()).size() == 4;
    }));
    kill(front.pid(), signal);
    const std::optional<int> status = front.wait_exit(kPromise);
    ASSERT_TRUE(status) << "alive a second after signal " << signal;
    EXPECT_NE(*status, 0);
    EXPECT_TRUE(all_gone(pids));
    EXPECT_TRUE(nothing_left());
  }
}

}  // namespace
}  // namespace fourfold::tests
