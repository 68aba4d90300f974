#include "runtime/group.h"

#include <chrono>
#include <utility>

#include "base/log.h"

namespace fourfold::runtime {

Group::Group(Options options, std::unique_ptr<GroupExecutor> executor, GroupOwner& owner)
    : options_(std::move(options)),
      owner_(owner),
      memory_(executor->memory()),
      delays_(options_.restart.value_or(RestartOptions())) {
  attach(std::move(executor));
  status_.occupancy = engine_->occupancy();
  thread_ = std::thread([this] { loop(); });
}

Group::~Group() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_starting_.request_stop();
  wake_.notify_one();
  thread_.join();
}

// --- called by others ---

void Group::post(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    inbox_.push_back(std::move(work));
  }
  wake_.notify_one();
}

/// Runs `work` on the group's thread and waits for it.
template <typename Work>
auto Group::call(Work work) {
  std::packaged_task<decltype(work())()> task(std::move(work));
  auto result = task.get_future();
  post([&task] { task(); });
  return result.get();
}

void Group::submit(engine::Request request, int64_t new_prompt_tokens,
                   std::vector<Flight> flights) {
  const int64_t output = request.max_new_tokens - std::ssize(request.output);
  outstanding_tokens_ += new_prompt_tokens + std::ssize(flights) * output;
  post([this, new_prompt_tokens, request = std::move(request),
        flights = std::move(flights)]() mutable {
    board(std::move(request), new_prompt_tokens, std::move(flights));
  });
}

void Group::cancel(engine::SequenceId id) {
  post([this, id] {
    if (engine_) engine_->cancel(id);
  });
}

void Group::trace(engine::StepObserver observer) {
  call([&] {
    observer_ = std::move(observer);
    if (engine_) engine_->trace(observer_);
  });
}

void Group::set_numerics(base::Numerics numerics) {
  call([&] {
    numerics_ = numerics;
    if (engine_) engine_->set_numerics(numerics);
  });
}

void Group::clear_prefix_cache() {
  call([this] {
    if (engine_) engine_->clear_prefix_cache();
  });
}

engine::EngineStats Group::stats() {
  return call([this] {
    engine::EngineStats total = past_stats_;
    if (engine_) total.merge(engine_->stats());
    return total;
  });
}

base::Result<std::vector<RankStats>> Group::rank_stats(double peaks_s) {
  return call([&]() -> base::Result<std::vector<RankStats>> {
    if (!executor_) return base::fail("{}", status().failure);
    return executor_->stats(peaks_s);
  });
}

GroupStatus Group::status() {
  const std::lock_guard lock(mutex_);
  GroupStatus out = status_;
  if (!idle_) out.without_step_ns = clock_.now_ns() - step_ns_;
  return out;
}

// --- the group's thread ---

void Group::loop() {
  std::vector<std::function<void()>> work;
  while (wait()) {
    bool failed = false;
    bool started = false;
    {
      const std::lock_guard lock(mutex_);
      work.swap(inbox_);
      if (!work.empty() && up_ && std::exchange(idle_, false)) step_ns_ = clock_.now_ns();
      failed = std::exchange(executor_failed_, false);
      started = started_.has_value();
    }
    for (const auto& run : work) run();
    work.clear();
    if (up_ && engine_) step();
    if (up_ && failed) go_down(*executor_->failure());
    if (start_ns_ && clock_.now_ns() >= *start_ns_) begin_start();
    if (started) finish_start();
  }
  // Whoever is still called by these finds the group whole.
  if (starter_.joinable()) starter_.join();
  engine_.reset();
  executor_.reset();
}

/// Until there is something to do. False: this was all.
bool Group::wait() {
  std::unique_lock lock(mutex_);
  const auto ready = [this] {
    return stopping_ || !inbox_.empty() || executor_failed_ || started_ ||
           (up_ && engine_->has_work());
  };
  if (start_ns_) {
    const std::chrono::nanoseconds rest(*start_ns_ - clock_.now_ns());
    wake_.wait_for(lock, rest, ready);
  } else {
    wake_.wait(lock, ready);
  }
  return !stopping_;
}

void Group::board(engine::Request request, int64_t new_prompt_tokens, std::vector<Flight> flights) {
  const int64_t output = request.max_new_tokens - std::ssize(request.output);
  if (!up_) {
    outstanding_tokens_ -= new_prompt_tokens + std::ssize(flights) * output;
    return owner_.on_down(options_.index, std::move(flights), nullptr);
  }
  std::vector<engine::SequenceId> ids;
  for (Flight& flight : flights) {
    ids.push_back(flight.id);
    const int64_t prompt = ids.size() == 1 ? new_prompt_tokens : 0;
    passengers_.emplace(ids.back(), Passenger{std::move(flight), prompt, output});
  }
  const base::Status added = engine_->add(std::move(request));
  if (added.ok()) return;
  for (const engine::SequenceId id : ids) {
    dispatch({.id = id,
              .token = std::nullopt,
              .finish = engine::FinishReason::kFailed,
              .failure = added.error().message});
  }
}

void Group::step() {
  const std::vector<engine::SequenceEvent> events = engine_->run_once();
  const bool failed = !engine_->failure().empty();
  if (!failed) note_step();  // before anybody hears of it
  for (const engine::SequenceEvent& event : events) {
    // The owner says what becomes of those that a failed group has aboard.
    if (!failed || event.finish != engine::FinishReason::kFailed) dispatch(event);
  }
  if (failed) go_down(*executor_->failure());
}

void Group::note_step() {
  engine::EngineStats total = past_stats_;
  total.merge(engine_->stats());
  const std::lock_guard lock(mutex_);
  step_ns_ = clock_.now_ns();
  idle_ = !engine_->has_work();
  status_.occupancy = engine_->occupancy();
  status_.stats = total;
}

void Group::dispatch(const engine::SequenceEvent& event) {
  const auto it = passengers_.find(event.id);
  if (it == passengers_.end()) return;
  Passenger& passenger = it->second;
  if (event.token) {
    outstanding_tokens_ -= std::exchange(passenger.prompt_tokens, 0) + 1;
    --passenger.output_tokens;
    passenger.flight.output.push_back(event.token->token);
  }
  if (!event.finish) return owner_.on_event(passenger.flight, event, clock_.now_ns());
  outstanding_tokens_ -= passenger.prompt_tokens + passenger.output_tokens;
  const Flight flight = std::move(passenger.flight);
  passengers_.erase(it);
  owner_.on_event(flight, event, clock_.now_ns());
}

// --- its lives ---

void Group::attach(std::unique_ptr<GroupExecutor> executor) {
  executor_ = std::move(executor);
  engine_.emplace(*executor_, options_.scheduler, clock_);
  if (numerics_) engine_->set_numerics(*numerics_);
  if (observer_) engine_->trace(observer_);
  up_ns_ = clock_.now_ns();
  executor_->on_failure([this] {
    const std::lock_guard lock(mutex_);
    executor_failed_ = true;
    wake_.notify_one();
  });
}

void Group::go_down(const GroupFailure& failure) {
  down_ns_ = clock_.now_ns();
  std::vector<Flight> flights;
  for (auto& [id, passenger] : passengers_) {
    flights.push_back(std::move(passenger.flight));
    outstanding_tokens_ -= passenger.prompt_tokens + passenger.output_tokens;
  }
  passengers_.clear();
  past_stats_.merge(engine_->stats());
  up_ = false;
  {
    const std::lock_guard lock(mutex_);
    idle_ = true;
    status_.occupancy = {};
    status_.stats = past_stats_;
    status_.failure = status_.previous_failure = failure.text;
    ++status_.failures.at(static_cast<size_t>(failure.cause));
    status_.migrated += std::ssize(flights);
    status_.detection_s += failure.detection_s;
  }
  // First those who wait, then what is left of the ranks.
  owner_.on_down(options_.index, std::move(flights), &failure);
  if (!options_.restart) return;
  engine_.reset();
  executor_.reset();
  {
    const std::lock_guard lock(mutex_);
    executor_failed_ = false;  // it was this life's
  }
  plan_start(base::seconds_between(up_ns_, down_ns_));
}

void Group::plan_start(double lived_s) {
  start_ns_ = clock_.now_ns() + static_cast<int64_t>(delays_.next_s(lived_s) * 1e9);
}

void Group::begin_start() {
  start_ns_.reset();
  starter_ = std::thread([this, restarts = starts_++] {
    auto result = options_.start(restarts, stop_starting_.get_token());
    const std::lock_guard lock(mutex_);
    started_ = std::move(result);
    wake_.notify_one();
  });
}

void Group::finish_start() {
  starter_.join();
  std::optional<base::Result<std::unique_ptr<GroupExecutor>>> result;
  {
    const std::lock_guard lock(mutex_);
    result.swap(started_);
  }
  if (!result->ok()) {
    spdlog::warn("group {} could not be started again: {}", options_.index,
                 result->error().message);
    {
      const std::lock_guard lock(mutex_);
      status_.failure = result->error().message;
    }
    return plan_start(/*lived_s=*/0);
  }
  attach(std::move(*result).value());
  const double recovery_s = base::seconds_between(down_ns_, clock_.now_ns());
  {
    const std::lock_guard lock(mutex_);
    status_.failure.clear();
    status_.occupancy = engine_->occupancy();
    ++status_.restarts;
    status_.recovery_s += recovery_s;
  }
  up_ = true;
  owner_.on_up(options_.index, recovery_s);
}

}  // namespace fourfold::runtime
