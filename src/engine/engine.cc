#include "engine/engine.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "base/check.h"
#include "engine/replica_choice.h"

namespace fourfold::engine {

void EngineStats::merge(const EngineStats& other) {
  steps += other.steps;
  for (size_t i = 0; i < steps_by_tokens.size(); ++i) {
    steps_by_tokens[i] += other.steps_by_tokens[i];
  }
  tokens += other.tokens;
  plan_s += other.plan_s;
  wait_s += other.wait_s;
  scheduler.merge(other.scheduler);
}

Engine::Engine(Executor& executor, const SchedulerOptions& options, const base::Clock& clock)
    : executor_(executor), clock_(clock) {
  const ExecutorLimits& limits = executor.limits();
  CHECK(limits.replicas > 0 && limits.depth > 0, "{} replicas, depth {}", limits.replicas,
        limits.depth);
  for (int32_t i = 0; i < limits.replicas; ++i) schedulers_.emplace_back(limits, options);
}

base::Status Engine::add(Request request) {
  if (!failure_.empty()) return base::fail("{}", failure_);
  std::vector<ReplicaLoad> loads;
  for (const Scheduler& scheduler : schedulers_) loads.push_back(scheduler.load(request.prompt));
  return schedulers_[choose_replica(loads)].add(std::move(request));
}

void Engine::cancel(SequenceId id) {
  for (Scheduler& scheduler : schedulers_) scheduler.cancel(id);
}

std::vector<SequenceEvent> Engine::run_once() {
  const int64_t begin_ns = clock_.now_ns();
  while (outstanding_ < executor_.limits().depth && submit_step()) {
  }
  stats_.plan_s += base::seconds_between(begin_ns, clock_.now_ns());
  if (outstanding_ > 0) commit_step();

  std::vector<SequenceEvent> events;
  for (Scheduler& scheduler : schedulers_) {
    std::vector<SequenceEvent> own = scheduler.take_events();
    events.insert(events.end(), std::make_move_iterator(own.begin()),
                  std::make_move_iterator(own.end()));
  }
  return events;
}

bool Engine::has_work() const {
  return outstanding_ > 0 ||
         std::any_of(schedulers_.begin(), schedulers_.end(), [](const Scheduler& scheduler) {
           return scheduler.unfinished() > 0 || scheduler.has_events();
         });
}

/// False if no replica has anything to do.
bool Engine::submit_step() {
  std::vector<StepBatch> batches(schedulers_.size());
  bool any = false;
  int64_t unfinished = 0;
  for (size_t i = 0; i < schedulers_.size(); ++i) {
    // The replicas step together: one with nothing to do takes part with zero rows.
    batches[i].step = next_step_;
    if (std::optional<StepBatch> batch = schedulers_[i].plan(next_step_)) {
      batches[i] = std::move(*batch);
      any = true;
    }
    unfinished += schedulers_[i].unfinished();
  }
  CHECK(any || outstanding_ > 0 || unfinished == 0,
        "{} sequences wait, but nothing runs and nothing can be planned", unfinished);
  if (!any) return false;
  executor_.submit(std::move(batches));
  next_step_ = StepId(next_step_.value + 1);
  ++outstanding_;
  return true;
}

void Engine::commit_step() {
  const int64_t begin_ns = clock_.now_ns();
  StepResult result = executor_.wait();
  const int64_t end_ns = clock_.now_ns();
  stats_.wait_s += base::seconds_between(begin_ns, end_ns);
  if (result.failed) {
    failure_ = std::move(result.failure);
    outstanding_ = 0;  // every later step has failed too
    for (Scheduler& scheduler : schedulers_) scheduler.fail_all(failure_);
    return;
  }
  const StepId oldest(next_step_.value - outstanding_);
  CHECK(result.step == oldest && result.outputs.size() == schedulers_.size(),
        "step {} with {} outputs came back, expected step {} with {}", result.step.value,
        result.outputs.size(), oldest.value, schedulers_.size());
  --outstanding_;
  ++stats_.steps;
  int64_t tokens = 0;
  for (size_t i = 0; i < schedulers_.size(); ++i) {
    StepRecord record = schedulers_[i].commit(oldest, std::move(result.outputs[i]));
    record.replica = static_cast<int32_t>(i);
    for (const ChunkRecord& chunk : record.chunks) tokens += chunk.num_tokens;
    if (observer_ && !record.chunks.empty()) observer_(record);
  }
  const auto* const bound =
      std::lower_bound(kStepTokenBounds.begin(), kStepTokenBounds.end(), tokens);
  ++stats_.steps_by_tokens[static_cast<size_t>(bound - kStepTokenBounds.begin())];
  stats_.tokens += tokens;
  stats_.plan_s += base::seconds_between(end_ns, clock_.now_ns());
}

void Engine::trace(StepObserver observer) {
  while (outstanding_ > 0) commit_step();
  observer_ = std::move(observer);
  for (Scheduler& scheduler : schedulers_) scheduler.set_trace(observer_ != nullptr);
}

void Engine::set_numerics(base::Numerics numerics) {
  while (outstanding_ > 0) commit_step();
  for (Scheduler& scheduler : schedulers_) scheduler.set_numerics(numerics);
  clear_prefix_cache();
}

void Engine::clear_prefix_cache() {
  for (Scheduler& scheduler : schedulers_) scheduler.clear_prefix_cache();
}

EngineStats Engine::stats() const {
  EngineStats stats = stats_;
  for (const Scheduler& scheduler : schedulers_) stats.scheduler.merge(scheduler.stats());
  return stats;
}

Occupancy Engine::occupancy() const {
  Occupancy out;
  for (const Scheduler& scheduler : schedulers_) out.merge(scheduler.occupancy());
  return out;
}

std::vector<SchedulerSnapshot> Engine::snapshots() const {
  std::vector<SchedulerSnapshot> out;
  for (const Scheduler& scheduler : schedulers_) out.push_back(scheduler.snapshot());
  return out;
}

}  // namespace fourfold::engine
