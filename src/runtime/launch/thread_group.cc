#include "runtime/launch/thread_group.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "base/clock.h"
#include "comm/local/local_world.h"
#include "runtime/fault.h"
#include "runtime/launch/hang_watch.h"
#include "runtime/launch/interrupt.h"
#include "runtime/launch/step_collector.h"

namespace fourfold::runtime {
namespace {

/// How often the front looks, while it waits, whether the program was interrupted or a rank hangs.
constexpr std::chrono::milliseconds kTick(50);

struct StatsTask {
  double peaks_s = 0;
};
using StepTask = std::shared_ptr<const std::vector<engine::StepBatch>>;
using Task = std::variant<StepTask, StatsTask>;

class ThreadExecutor final : public GroupExecutor {
 public:
  ThreadExecutor(const RankConfig& config, WorkerFactory factory,
                 const std::optional<FaultSpec>& fault)
      : config_(config),
        factory_(std::move(factory)),
        world_(config.group.devices(), config.waiting()),
        hang_watch_(config),
        collector_(config.group),
        ranks_(static_cast<size_t>(config.group.devices())),
        memory_(ranks_.size()) {
    for (size_t r = 0; r < ranks_.size(); ++r) {
      Rank& rank = ranks_[r];
      if (fault) {
        rank.fault = std::make_unique<Fault>(*fault);
        rank.fault->watch(world_rank(config, static_cast<int>(r)), config.restarts);
      }
      rank.progress = std::make_unique<comm::Progress>(rank.fault.get());
    }
    for (size_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r].thread = std::thread([this, r] { run_rank(static_cast<int>(r)); });
    }
  }

  ~ThreadExecutor() override {
    fail({.cause = FailureCause::kOther, .text = "the group was shut down"});
    for (Rank& rank : ranks_) rank.thread.join();
  }
  ThreadExecutor(const ThreadExecutor&) = delete;
  ThreadExecutor& operator=(const ThreadExecutor&) = delete;

  base::Status wait_loaded(const StartProgress& progress, const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    size_t told = 0;
    wait_until(lock, [&] {
      if (stop.stop_requested()) fail_locked({.text = std::string(kStartStopped)});
      if (told != loaded_) progress(fmt::format("{} of {} ranks loaded", loaded_, ranks_.size()));
      told = loaded_;
      return loaded_ == ranks_.size();
    });
    if (collector_.failure()) return base::fail("{}", *collector_.failure());
    return {};
  }

  const engine::ExecutorLimits& limits() const override { return config_.limits; }
  const std::vector<RankMemory>& memory() const override { return memory_; }

  void submit(std::vector<engine::StepBatch> batches) override {
    const std::lock_guard lock(mutex_);
    CHECK(std::ssize(batches) == config_.group.dp && collector_.outstanding() < limits().depth,
          "{} batches for {} replicas, {} steps outstanding of {}", batches.size(),
          config_.group.dp, collector_.outstanding(), limits().depth);
    collector_.expect(batches[0].step);
    give(std::make_shared<const std::vector<engine::StepBatch>>(std::move(batches)));
  }

  engine::StepResult wait() override {
    std::unique_lock lock(mutex_);
    CHECK(collector_.outstanding() > 0, "no step is outstanding");
    wait_until(lock, [this] { return collector_.ready(); });
    return collector_.take();
  }

  base::Result<std::vector<RankStats>> stats(double peaks_s) override {
    std::unique_lock lock(mutex_);
    for (Rank& rank : ranks_) rank.stats.reset();
    give(StatsTask{peaks_s});
    measure_s_ = peaks_s;
    wait_until(lock, [this] {
      return std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return !!r.stats; });
    });
    measure_s_.reset();
    std::vector<RankStats> out;
    for (Rank& rank : ranks_) {
      if (!rank.stats) return base::fail("{}", *collector_.failure());
      out.push_back(std::move(*rank.stats));
    }
    return out;
  }

  std::optional<GroupFailure> failure() const override {
    const std::lock_guard lock(mutex_);
    return failure_;
  }
  void on_failure(std::function<void()> call) override {
    std::unique_lock lock(mutex_);
    on_failure_ = std::move(call);
    if (failure_) call_on_failure(lock);
  }

 private:
  struct Rank {
    std::deque<Task> tasks;
    comm::CommStats control;  ///< its own thread's
    std::optional<RankStats> stats;
    std::unique_ptr<Fault> fault;  // what it shall do wrong, if anything
    std::unique_ptr<comm::Progress> progress;
    std::thread thread;
  };

  /// Under the mutex: every rank gets `task`.
  void give(const Task& task) {
    for (Rank& rank : ranks_) rank.tasks.push_back(task);
    work_.notify_all();
  }

  /// Waits for the front's sake until `done` or the group has failed. An interrupt fails it, and so
  /// does a rank that hangs.
  template <typename Done>
  void wait_until(std::unique_lock<std::mutex>& lock, Done done) {
    while (!done() && !collector_.failure()) {
      done_.wait_for(lock, kTick);
      if (interrupted()) fail_locked({.text = std::string(kInterrupted)});
      check_progress();
    }
    call_on_failure(lock);
  }

  void check_progress() {
    const auto now = std::chrono::steady_clock::now();
    for (size_t r = 0; r < ranks_.size(); ++r) {
      hang_watch_.observe(static_cast<int>(r), ranks_[r].progress->position(), now);
    }
    hang_watch_.tick(
        {.any = collector_.outstanding() > 0 || measure_s_, .measure_s = measure_s_.value_or(0)},
        now);
    if (const std::optional<Hang> hang = hang_watch_.find(now)) {
      fail_locked({.cause = FailureCause::kHung,
                   .text = fmt::format("{} {}", describe_rank(config_, hang->rank), hang->what),
                   .detection_s = hang->still_s});
    }
  }

  void fail(GroupFailure failure) {
    std::unique_lock lock(mutex_);
    fail_locked(std::move(failure));
    call_on_failure(lock);
  }

  void fail_locked(GroupFailure failure) {
    if (failure_) return;
    collector_.fail(failure.text);
    world_.abort(failure.text);
    failure_ = std::move(failure);
    for (Rank& rank : ranks_) {
      if (rank.fault) rank.fault->release();
    }
    work_.notify_all();
    done_.notify_all();
  }

  /// Calls without the mutex whoever waits for the failure, if there is one.
  void call_on_failure(std::unique_lock<std::mutex>& lock) {
    if (!failure_ || !on_failure_) return;
    const std::function<void()> call = std::exchange(on_failure_, nullptr);
    lock.unlock();
    call();
    lock.lock();
  }

  /// The next thing to do for a rank; nothing once the group has failed or, without `wait`, while
  /// there is none.
  std::optional<Task> next_task(Rank& rank, bool wait) {
    if (wait) rank.progress->enter(comm::Operation::kIdle);
    const base::SteadyClock clock;
    const int64_t idle_ns = clock.now_ns();
    std::unique_lock lock(mutex_);
    if (wait) work_.wait(lock, [&] { return !rank.tasks.empty() || collector_.failure(); });
    const double idle_s = base::seconds_between(idle_ns, clock.now_ns());
    rank.control.wait_seconds += idle_s;
    rank.control.seconds += idle_s;
    if (collector_.failure() || rank.tasks.empty()) return std::nullopt;
    Task task = std::move(rank.tasks.front());
    rank.tasks.pop_front();
    return task;
  }

  void run_rank(int rank) {
    // Whatever a worker or a library below it throws ends the group, not the process. Of the ranks
    // that an abort unwinds only the first has a reason of its own.
    try {
      const base::Status status = serve_rank(rank);
      if (!status.ok()) fail(crash(rank, status.error().message));
    } catch (const comm::CommAborted& aborted) {
      fail({.text = describe(rank, aborted.reason)});
    } catch (const std::exception& error) {
      fail(crash(rank, error.what()));
    }
  }

  base::Status serve_rank(int rank) {
    const auto index = static_cast<size_t>(rank);
    std::unique_ptr<comm::Communicator> world = world_.communicator(rank);
    world->report_to(ranks_[index].progress.get());
    FF_ASSIGN(const std::unique_ptr<Worker> worker, factory_(config_, std::move(world)));
    {
      const std::lock_guard lock(mutex_);
      memory_[index] = worker->memory();
      ++loaded_;
      done_.notify_all();
    }
    int begun = 0;
    const auto finish = [&]() -> base::Status {
      --begun;
      StageReport report = worker->finish();
      if (!worker->reports()) return {};
      ++ranks_[index].control.calls;
      const std::lock_guard lock(mutex_);
      FF_TRY(collector_.add(rank, std::move(report)));
      done_.notify_all();
      return {};
    };
    while (true) {
      // While a device works only what is there already is taken.
      const std::optional<Task> task =
          begun < worker->depth() ? next_task(ranks_[index], /*wait=*/begun == 0) : std::nullopt;
      if (!task) {
        if (begun == 0) return {};
        FF_TRY(finish());
      } else if (const auto* step = std::get_if<StepTask>(&*task)) {
        if (ranks_[index].fault) ranks_[index].fault->begin(**step);
        worker->begin(**step);
        ++begun;
        ++ranks_[index].control.calls;
      } else {
        while (begun > 0) FF_TRY(finish());
        FF_ASSIGN(RankStats stats, worker->stats(std::get<StatsTask>(*task).peaks_s));
        const std::lock_guard lock(mutex_);
        stats.comm.emplace_back(mesh::Axis::kControl, ranks_[index].control);
        ranks_[index].stats = std::move(stats);
        done_.notify_all();
      }
    }
  }

  GroupFailure crash(int rank, std::string_view what) const {
    return {.cause = FailureCause::kCrashed, .text = describe(rank, what)};
  }
  std::string describe(int rank, std::string_view what) const {
    return fmt::format("{}: {}", describe_rank(config_, rank), what);
  }

  RankConfig config_;
  WorkerFactory factory_;
  comm::LocalWorld world_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable work_;
  std::condition_variable done_;
  HangWatch hang_watch_;
  std::optional<double> measure_s_;  // statistics have been asked for, with peaks for so long
  StepCollector collector_;
  std::optional<GroupFailure> failure_;
  std::function<void()> on_failure_;
  std::vector<Rank> ranks_;
  std::vector<RankMemory> memory_;
  size_t loaded_ = 0;
};

}  // namespace

base::Result<std::unique_ptr<GroupExecutor>> start_thread_group(const RankConfig& config,
                                                                const StartProgress& progress,
                                                                const WorkerFactory& factory,
                                                                const std::stop_token& stop) {
  FF_ASSIGN(const std::optional<FaultSpec> fault, FaultSpec::from_environment());
  if (fault && fault->needs_process()) {
    return base::fail(
        "{} ends or stops a process, and these ranks are threads of one: use --ranks processes, or "
        "action=hang, throw, slow:<N>ms or corrupt",
        kFaultVariable);
  }
  auto group = std::make_unique<ThreadExecutor>(config, factory, fault);
  FF_TRY(group->wait_loaded(progress, stop));
  return std::unique_ptr<GroupExecutor>(std::move(group));
}

}  // namespace fourfold::runtime
