#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/executor.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "engine/snapshot.h"
#include "engine/step_record.h"

namespace fourfold::engine {

/// Steps are counted by how many tokens they compute: up to each of these, and more.
inline constexpr std::array<int64_t, 13> kStepTokenBounds = {1,   8,    16,   32,   64,   128,  256,
                                                             512, 1024, 2048, 4096, 8192, 16384};

/// Counters since the start.
struct EngineStats {
  int64_t steps = 0;
  std::array<int64_t, kStepTokenBounds.size() + 1> steps_by_tokens{};
  int64_t tokens = 0;        ///< that were computed
  double plan_s = 0;         ///< planning, submitting and committing
  double wait_s = 0;         ///< waiting for results
  SchedulerStats scheduler;  ///< all replicas together

  void merge(const EngineStats& other);
};

/// Called for every replica of every finished step that computed something.
using StepObserver = std::function<void(const StepRecord&)>;

/// Serves requests on one lockstep block of replicas: a Scheduler each, whose steps go to the
/// Executor together. Used by one thread.
class Engine {
 public:
  /// `executor` and `clock` outlive the engine.
  Engine(Executor& executor, const SchedulerOptions& options, const base::Clock& clock);

  /// Queues a request on the replica that choose_replica() names. Errors: those of Scheduler::add;
  /// the executor has failed.
  base::Status add(Request request);
  /// Ends a sequence with kCancelled; the event comes from the next run_once().
  void cancel(SequenceId id);

  /// Submits steps until as many are outstanding as the executor takes or nothing can be planned,
  /// then waits for the oldest one and returns what happened. A failed step ends all sequences with
  /// kFailed.
  std::vector<SequenceEvent> run_once();
  /// False when run_once() would do nothing.
  bool has_work() const;

  /// Tells `observer` of every step from now on, which are traced (StepBatch::trace); null: no
  /// more. Waits for the outstanding steps first; their events come from the next run_once().
  void trace(StepObserver observer);
  /// Numerics of every step from now on. Waits for the outstanding steps first and clears the
  /// prefix cache: keys and values of one numerics are not those of the other.
  void set_numerics(base::Numerics numerics);
  void clear_prefix_cache();
  EngineStats stats() const;
  Occupancy occupancy() const;
  /// The executor's failure; empty while it works.
  const std::string& failure() const { return failure_; }
  /// One for each replica.
  std::vector<SchedulerSnapshot> snapshots() const;

 private:
  bool submit_step();
  void commit_step();

  Executor& executor_;
  const base::Clock& clock_;
  std::deque<Scheduler> schedulers_;  ///< in place: a Scheduler is not copied
  StepObserver observer_;
  StepId next_step_{0};
  int32_t outstanding_ = 0;
  std::string failure_;
  EngineStats stats_;
};

}  // namespace fourfold::engine
