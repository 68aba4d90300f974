// Ranks that die or stop at random moments, in schemes of four: each is named in time, nothing
// of it is left, and replicas that are not concerned go on.
//
// FOURFOLD_SOAK_KILLS and FOURFOLD_SOAK_STOPS say how many (50 and 10), FOURFOLD_SOAK_SEED which
// (0).

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "files/scratch_folder.h"
#include "runtime/cluster.h"
#include "runtime/fault.h"
#include "runtime/launch/child_process.h"
#include "tests/support/processes.h"

namespace fourfold::tests {
namespace {

using runtime::Cluster;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

constexpr seconds kKillPromise(1);
constexpr seconds kStopPromise(5);
/// For things to come up, and for work to be done, on a machine that is busy with something else.
constexpr seconds kPatience(60);
constexpr int kRanks = 4;

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

const std::vector<mesh::ParallelConfig>& dense_schemes() {
  static const std::vector<mesh::ParallelConfig> kSchemes = {
      {.tp = 4}, {.pp = 4}, {.dp = 4}, {.pp = 2, .tp = 2}, {.dp = 2, .tp = 2}, {.pp = 2, .dp = 2}};
  return kSchemes;
}

/// Before these some of a model with experts, whose blocks cover two replicas, both, or a half
/// each.
const std::vector<mesh::ParallelConfig>& schemes() {
  static const std::vector<mesh::ParallelConfig> kSchemes = [] {
    std::vector<mesh::ParallelConfig> all = {
        {.dp = 4, .ep = 2}, {.dp = 2, .tp = 2, .ep = 4}, {.dp = 2, .tp = 2, .ep = 2}};
    all.insert(all.end(), dense_schemes().begin(), dense_schemes().end());
    return all;
  }();
  return kSchemes;
}

/// Replicas that share experts, and end together.
int lockstep(const mesh::ParallelConfig& scheme) {
  return scheme.ep == 1 ? 1 : std::max(1, scheme.ep / scheme.tp);
}
int groups(const mesh::ParallelConfig& scheme) { return scheme.dp / lockstep(scheme); }

/// A failure of requests as their client learns it.
struct Failure {
  std::string text;
  int64_t at_ns = 0;
};

/// Clients that keep a cluster busy, each with one request after the other.
class Traffic {
 public:
  static constexpr int kClients = 8;

  explicit Traffic(Cluster& cluster) : cluster_(cluster) {
    for (int i = 0; i < kClients; ++i) ask();
  }
  /// Every request comes to an end before this does.
  ~Traffic() {
    wait([this] { return open_ == 0; }, /*go_on=*/false);
  }
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  void run_for(milliseconds time) {
    wait([] { return false; }, true, time);
  }
  bool run_until_served(int requests) {
    const int goal = served() + requests;
    return wait([&] { return served_ >= goal; }, true);
  }
  /// The first failure with a text that was not seen before.
  std::optional<Failure> run_until_failure() {
    wait([&] { return !fresh_.empty(); }, true);
    const std::lock_guard lock(mutex_);
    if (fresh_.empty()) return std::nullopt;
    Failure first = fresh_.front();
    fresh_.erase(fresh_.begin());
    return first;
  }

 private:
  int served() {
    const std::lock_guard lock(mutex_);
    return served_;
  }

  void ask() {
    engine::Request request;
    request.id = cluster_.next_id();
    for (int i = 0; i < 16; ++i) request.prompt.push_back(5 + i);
    request.max_new_tokens = 64;
    request.ignore_eos = true;
    request.sampling.presence_penalty = 0.5F;  // sampled by shard 0, which tells the others
    {
      const std::lock_guard lock(mutex_);
      ++open_;
    }
    const base::Status status = cluster_.submit(
        std::move(request), [this](const engine::SequenceEvent& event, int64_t now_ns) {
          if (!event.finish) return;
          const std::lock_guard lock(mutex_);
          if (*event.finish != engine::FinishReason::kFailed) {
            ++served_;
          } else if (seen_.insert(event.failure).second) {
            fresh_.push_back({event.failure, now_ns});
          }
          --open_;
          changed_.notify_all();
        });
    if (!status.ok()) {  // no replica is left
      const std::lock_guard lock(mutex_);
      --open_;
      over_ = true;
    }
  }

  /// False if `done` did not come true.
  template <typename Done>
  bool wait(Done done, bool go_on, milliseconds limit = kPatience) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    std::unique_lock lock(mutex_);
    while (!done()) {
      if (go_on && open_ < kClients && !over_) {
        lock.unlock();
        ask();
        lock.lock();
      } else if (changed_.wait_until(lock, deadline) == std::cv_status::timeout) {
        return done();
      }
    }
    return true;
  }

  Cluster& cluster_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::set<std::string> seen_;
  std::vector<Failure> fresh_;
  int open_ = 0;
  int served_ = 0;
  bool over_ = false;
};

/// Learns which of the ranks dies first, and when, by the kernel's word.
class FirstDeath {
 public:
  explicit FirstDeath(std::vector<RankProcess> ranks) : ranks_(std::move(ranks)) {
    for (const RankProcess& rank : ranks_) {
      fds_.push_back({.fd = static_cast<int>(syscall(SYS_pidfd_open, rank.pid, 0)),
                      .events = POLLIN,
                      .revents = 0});
    }
    watcher_ = std::thread([this] {
      const int limit_ms = static_cast<int>(milliseconds(kPatience).count());
      if (poll(fds_.data(), fds_.size(), limit_ms) > 0) at_ns_ = base::SteadyClock().now_ns();
    });
  }
  ~FirstDeath() {
    if (watcher_.joinable()) watcher_.join();
    for (const pollfd& fd : fds_) close(fd.fd);
  }
  FirstDeath(const FirstDeath&) = delete;
  FirstDeath& operator=(const FirstDeath&) = delete;

  struct Death {
    RankProcess rank;
    int64_t at_ns = 0;
  };
  std::optional<Death> wait() {
    watcher_.join();
    const auto dead =
        std::find_if(fds_.begin(), fds_.end(), [](const pollfd& fd) { return fd.revents != 0; });
    if (dead == fds_.end()) return std::nullopt;
    return Death{ranks_[static_cast<size_t>(dead - fds_.begin())], at_ns_};
  }

 private:
  std::vector<RankProcess> ranks_;
  std::vector<pollfd> fds_;
  int64_t at_ns_ = 0;
  std::thread watcher_;
};

class FaultSoak : public testing::Test {
 protected:
  FaultSoak() {
    std::filesystem::create_directory(temporary_);
    setenv("TMPDIR", temporary_.c_str(), 1);
    shared_before_ = shared_memory();
  }
  ~FaultSoak() override {
    unsetenv("TMPDIR");
    unsetenv(runtime::kFaultVariable);
  }

  base::Result<std::unique_ptr<Cluster>> start(const mesh::ParallelConfig& scheme) const {
    runtime::ClusterConfig config;
    config.model = scheme.ep > 1 ? "tiny-moe" : "tiny";
    config.scheme = scheme;
    config.program = FOURFOLD_BINARY;
    config.max_positions = 128;
    config.max_running = Traffic::kClients;
    return Cluster::start(config, [](const std::string&) {});
  }

  static std::vector<RankProcess> ranks() { return rank_processes(getpid()); }

  /// Every process of the groups has a path in the test's folder among its arguments.
  bool processes_left() const {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
      const pid_t pid = std::atoi(entry.path().filename().c_str());
      if (pid <= 0 || pid == getpid() || !is_alive(pid)) continue;
      if (read_proc(pid, "cmdline").find(temporary_.native()) != std::string::npos) return true;
    }
    return false;
  }
  static std::set<std::string> shared_memory() {
    std::set<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
      out.insert(entry.path());
    }
    return out;
  }
  void expect_nothing_left() const {
    EXPECT_TRUE(wait_for(kKillPromise, [&] { return !processes_left(); }));
    EXPECT_TRUE(std::filesystem::is_empty(temporary_));
    EXPECT_EQ(shared_memory(), shared_before_);
  }

  /// The slowest of a test is among its properties (--gtest_output).
  void expect_in_time(const Failure& failure, int64_t since_ns, std::chrono::nanoseconds promise) {
    const std::chrono::nanoseconds took(failure.at_ns - since_ns);
    EXPECT_LE(took, promise) << failure.text;
    slowest_ = std::max(slowest_, took);
    RecordProperty("slowest_ms", std::to_string(slowest_ / milliseconds(1)));
  }

  int below(int end) { return std::uniform_int_distribution<int>(0, end - 1)(random_); }

  /// Sends `signal` to one rank after the other, of one replica after the other, each at a random
  /// moment, until `count` or no replica is left.
  int harm_every_replica(const mesh::ParallelConfig& scheme, int signal, int count,
                         std::chrono::nanoseconds promise);
  void expect_named(const std::string& text, const mesh::ParallelConfig& scheme,
                    const RankProcess& victim) const;
  std::string random_phase(const mesh::ParallelConfig& scheme, int rank);

  std::mt19937 random_{static_cast<uint32_t>(from_environment("FOURFOLD_SOAK_SEED", 0))};
  files::ScratchFolder folder_;
  std::filesystem::path temporary_ = folder_.path() / "tmp";
  std::set<std::string> shared_before_;
  std::chrono::nanoseconds slowest_{0};
};

void FaultSoak::expect_named(const std::string& text, const mesh::ParallelConfig& scheme,
                             const RankProcess& victim) const {
  mesh::ParallelConfig group = scheme;
  group.dp = lockstep(scheme);
  const mesh::Coordinates at = mesh::coordinates(group, victim.rank);
  EXPECT_THAT(text, HasSubstr(fmt::format("(stage {}, replica ", at.stage)));
  EXPECT_THAT(text, HasSubstr(fmt::format(", shard {}, pid {})", at.shard, victim.pid)));
}

int FaultSoak::harm_every_replica(const mesh::ParallelConfig& scheme, int signal, int count,
                                  std::chrono::nanoseconds promise) {
  base::Result<std::unique_ptr<Cluster>> cluster = start(scheme);
  EXPECT_TRUE(cluster.ok()) << cluster.error().message;
  if (!cluster.ok()) return count;
  Traffic traffic(**cluster);
  EXPECT_TRUE(traffic.run_until_served(Traffic::kClients));
  int harmed = 0;
  while (harmed < std::min(count, groups(scheme))) {
    const std::vector<RankProcess> alive = ranks();
    traffic.run_for(milliseconds(below(50)));
    const RankProcess victim = alive.at(static_cast<size_t>(below(static_cast<int>(alive.size()))));
    const int64_t begin_ns = base::SteadyClock().now_ns();
    kill(victim.pid, signal);
    const std::optional<Failure> failure = traffic.run_until_failure();
    ++harmed;
    EXPECT_TRUE(failure) << "rank " << victim.rank << " of " << victim.run_dir << " is not missed";
    if (!failure) return harmed;
    expect_named(failure->text, scheme, victim);
    expect_in_time(*failure, begin_ns, promise);
    // Its group is gone, and what the others do is not disturbed.
    EXPECT_TRUE(wait_for(kKillPromise, [&] {
      const std::vector<RankProcess> left = ranks();
      return std::none_of(left.begin(), left.end(),
                          [&](const RankProcess& rank) { return rank.run_dir == victim.run_dir; });
    }));
    if (harmed < groups(scheme)) {
      EXPECT_TRUE(traffic.run_until_served(Traffic::kClients));
    }
  }
  return harmed;
}

TEST_F(FaultSoak, AKilledRankIsNamedWithinASecond) {
  // Every other one is killed from without; the rest kill themselves, below.
  const int count = (from_environment("FOURFOLD_SOAK_KILLS", 50) + 1) / 2;
  for (int done = 0, round = 0; done < count; ++round) {
    const mesh::ParallelConfig& scheme = schemes()[static_cast<size_t>(round) % schemes().size()];
    SCOPED_TRACE(fmt::format("round {}, {}", round, mesh::scheme_name(scheme)));
    done += harm_every_replica(scheme, SIGKILL, count - done, kKillPromise);
    expect_nothing_left();
    if (HasFailure()) return;
  }
}

TEST_F(FaultSoak, AStoppedRankIsNamedWithinFiveSeconds) {
  const int count = from_environment("FOURFOLD_SOAK_STOPS", 10);
  for (int done = 0, round = 0; done < count; ++round) {
    const mesh::ParallelConfig& scheme = schemes()[static_cast<size_t>(round) % schemes().size()];
    SCOPED_TRACE(fmt::format("round {}, {}", round, mesh::scheme_name(scheme)));
    done += harm_every_replica(scheme, SIGSTOP, std::min(count - done, 2), kStopPromise);
    expect_nothing_left();
    if (HasFailure()) return;
  }
}

/// An operation that this rank comes by in every step.
std::string FaultSoak::random_phase(const mesh::ParallelConfig& scheme, int rank) {
  if (scheme.ep > 1) {  // its replica may have no rows
    const std::vector<std::string> phases = {"inputs", "mlp", "route", "experts", "all-gather"};
    return phases[static_cast<size_t>(below(static_cast<int>(phases.size())))];
  }
  const mesh::Coordinates at = mesh::coordinates(scheme, rank);
  const bool last = at.stage == scheme.pp - 1;
  std::vector<std::string> phases = {"inputs", "attention", "mlp"};
  if (at.stage == 0) phases.emplace_back("embed");
  if (last) phases.emplace_back("head");
  if (last) phases.emplace_back("sample");
  if (scheme.tp > 1) phases.emplace_back("all-reduce");
  if (scheme.tp > 1 && last) phases.emplace_back("all-gather");
  if (scheme.tp > 1 && last) phases.emplace_back("broadcast");
  if (scheme.pp > 1) phases.emplace_back("send");
  if (scheme.pp > 1 && at.stage > 0) phases.emplace_back("recv");
  return phases[static_cast<size_t>(below(static_cast<int>(phases.size())))];
}

TEST_F(FaultSoak, ARankThatDiesInAnyPhaseOfAStepIsNamed) {
  const int count = from_environment("FOURFOLD_SOAK_KILLS", 50) / 2;
  for (int round = 0; round < count; ++round) {
    const mesh::ParallelConfig& scheme = schemes()[static_cast<size_t>(round) % schemes().size()];
    const int rank = below(kRanks);
    const std::string fault = fmt::format("rank={} step={} op={} action=kill", rank, below(40) + 2,
                                          random_phase(scheme, rank));
    SCOPED_TRACE(fmt::format("round {}, {}, {}", round, mesh::scheme_name(scheme), fault));
    setenv(runtime::kFaultVariable, fault.c_str(), 1);
    base::Result<std::unique_ptr<Cluster>> cluster = start(scheme);
    ASSERT_TRUE(cluster.ok()) << cluster.error().message;
    {
      FirstDeath first_death(ranks());
      Traffic traffic(**cluster);
      const std::optional<Failure> failure = traffic.run_until_failure();
      ASSERT_TRUE(failure);
      const std::optional<FirstDeath::Death> death = first_death.wait();
      ASSERT_TRUE(death);
      expect_named(failure->text, scheme, death->rank);
      expect_in_time(*failure, death->at_ns, kKillPromise);
      const mesh::Coordinates at = mesh::coordinates(scheme, rank);
      EXPECT_THAT(failure->text,
                  HasSubstr(fmt::format("rank {} (stage {}, replica {}, shard {}, pid ", rank,
                                        at.stage, at.replica, at.shard)));
      if (groups(scheme) > 1) {
        EXPECT_TRUE(traffic.run_until_served(Traffic::kClients));
      }
    }
    cluster->reset();
    expect_nothing_left();
    if (HasFailure()) return;
  }
}

TEST_F(FaultSoak, ARankThatDiesWhileItStartsIsNoticedAndLeavesNothing) {
  const int count = (from_environment("FOURFOLD_SOAK_KILLS", 50) + 9) / 10;
  const std::vector<std::string> phases = {"start", "meet", "load"};
  for (int round = 0; round < count; ++round) {
    const mesh::ParallelConfig& scheme = schemes()[static_cast<size_t>(round) % schemes().size()];
    const int rank = below(kRanks);
    const std::string fault =
        fmt::format("rank={} op={} action=kill", rank, phases[static_cast<size_t>(round) % 3]);
    SCOPED_TRACE(fmt::format("round {}, {}, {}", round, mesh::scheme_name(scheme), fault));
    setenv(runtime::kFaultVariable, fault.c_str(), 1);
    const base::Result<std::unique_ptr<Cluster>> cluster = start(scheme);
    ASSERT_FALSE(cluster.ok());
    EXPECT_THAT(cluster.error().message, HasSubstr(fmt::format("rank {} (", rank)));
    expect_nothing_left();
    if (HasFailure()) return;
  }
}

TEST_F(FaultSoak, ADeadFrontLeavesNothingWheneverItDies) {
  const int count = (from_environment("FOURFOLD_SOAK_KILLS", 50) + 4) / 5;
  for (int round = 0; round < count; ++round) {
    const mesh::ParallelConfig& scheme =
        dense_schemes()[static_cast<size_t>(round) % dense_schemes().size()];
    const milliseconds life(below(1500));
    SCOPED_TRACE(
        fmt::format("round {}, {}, {} ms", round, mesh::scheme_name(scheme), life.count()));
    const runtime::ChildProcess front =
        runtime::ChildProcess::spawn(
            {.args = {FOURFOLD_BINARY, "verify", "tiny", "--schemes", mesh::scheme_name(scheme),
                      "--concurrency", "1", "--output-len", "200"},
             .environment = {},
             .output = folder_.path() / "output"})
            .value();
    poll(nullptr, 0, static_cast<int>(life.count()));
    kill(front.pid(), SIGKILL);
    EXPECT_TRUE(wait_for(kKillPromise, [&] { return !processes_left(); }));
    EXPECT_TRUE(wait_for(kKillPromise, [&] { return std::filesystem::is_empty(temporary_); }));
    EXPECT_EQ(shared_memory(), shared_before_);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace fourfold::tests
