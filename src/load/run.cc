#include "load/run.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "base/check.h"

namespace fourfold::load {

void SteadyWaitableClock::wait_until(int64_t deadline_ns) {
  std::unique_lock lock(mutex_);
  const auto woken = [this] { return woken_; };
  if (deadline_ns == kNever) {
    changed_.wait(lock, woken);
  } else {
    const std::chrono::steady_clock::time_point deadline{std::chrono::nanoseconds(deadline_ns)};
    changed_.wait_until(lock, deadline, woken);
  }
  woken_ = false;
}

void SteadyWaitableClock::wake() {
  const std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_one();
}

namespace {

struct Finished {
  size_t index = 0;
  int64_t at_ns = 0;
};

/// What the sinks of all requests write to. Shared with them, because a sink may be called once
/// more while the run that started it gives up.
struct Inbox {
  std::mutex mutex;
  WaitableClock* clock = nullptr;  ///< null: the run has ended
  std::vector<RequestLog> logs;
  std::vector<std::vector<engine::TokenId>> outputs;  ///< of requests that another one follows
  std::vector<bool> followed;
  std::vector<Finished> finished;
  bool counts_failures = false;
  std::string failure;
};

void receive(Inbox& inbox, size_t index, const Arrival& arrival) {
  const std::lock_guard lock(inbox.mutex);
  if (inbox.clock == nullptr) return;
  if (!arrival.tokens.empty()) {
    inbox.logs[index].chunks.push_back(
        {.at_ns = arrival.now_ns, .tokens = static_cast<int32_t>(arrival.tokens.size())});
  }
  if (inbox.followed[index]) {
    std::vector<engine::TokenId>& output = inbox.outputs[index];
    output.insert(output.end(), arrival.tokens.begin(), arrival.tokens.end());
  }
  if (!arrival.failure.empty()) {
    inbox.logs[index].failed = true;
    inbox.logs[index].failure = arrival.failure;
    if (!inbox.counts_failures) inbox.failure = arrival.failure;
  }
  if (arrival.told_tokens) inbox.logs[index].told_tokens = arrival.told_tokens;
  if (arrival.finished) inbox.finished.push_back({index, arrival.now_ns});
  if (arrival.finished || !arrival.failure.empty()) inbox.clock->wake();
}

/// One run: what is due, what is outstanding, what comes next.
class Run {
 public:
  Run(const Workload& workload, const RunOptions& options, WaitableClock& clock,
      const Submit& submit)
      : workload_(workload),
        options_(options),
        clock_(clock),
        submit_(submit),
        inbox_(std::make_shared<Inbox>()) {
    const size_t count = workload.requests.size();
    inbox_->clock = &clock;
    inbox_->counts_failures = options.count_failures;
    inbox_->logs.resize(count);
    inbox_->outputs.resize(count);
    inbox_->followed.resize(count);
    prompts_.resize(count);
    followers_.resize(count);
    for (size_t i = 0; i < count; ++i) {
      const int32_t before = workload.requests[i].follows;
      if (before < 0) {
        first_turns_.push_back(i);
        continue;
      }
      CHECK(static_cast<size_t>(before) < i && !followers_[static_cast<size_t>(before)],
            "request {} follows {}", i, before);
      followers_[static_cast<size_t>(before)] = i;
      inbox_->followed[static_cast<size_t>(before)] = true;
    }
  }
  ~Run() {
    const std::lock_guard lock(inbox_->mutex);
    inbox_->clock = nullptr;
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  base::Result<std::vector<RequestLog>> run() {
    CHECK((options_.concurrency > 0) != !options_.arrivals_s.empty() || first_turns_.empty(),
          "neither or both of a concurrency and arrival times");
    CHECK(options_.concurrency > 0 || options_.arrivals_s.size() == first_turns_.size(),
          "{} arrival times for {} first turns", options_.arrivals_s.size(), first_turns_.size());
    prepare_next();
    start_ns_ = clock_.now_ns();
    free_places_.assign(static_cast<size_t>(options_.concurrency), start_ns_);
    while (done_ < workload_.requests.size()) {
      FF_TRY(send_due());
      prepare_next();
      const size_t done_before = done_;
      FF_TRY(collect());
      if (done_ == done_before) FF_TRY(wait());
    }
    end_ns_ = clock_.now_ns();
    const std::lock_guard lock(inbox_->mutex);
    return std::move(inbox_->logs);
  }
  double wall_s() const { return base::seconds_between(start_ns_, end_ns_); }

 private:
  /// Until something is due or has happened.
  base::Status wait() {
    if (!options_.stop) {
      clock_.wait_until(next_arrival_ns());
      return {};
    }
    clock_.wait_until(std::min(next_arrival_ns(), clock_.now_ns() + kStopTickNs));
    return options_.stop() ? base::Status(base::fail("interrupted")) : base::Status();
  }

  bool all_started() const { return next_first_ == first_turns_.size(); }

  /// When the next first turn is due; kNever where it waits for a place.
  int64_t next_arrival_ns() const {
    if (all_started()) return WaitableClock::kNever;
    if (options_.concurrency > 0) {
      return free_places_.empty() ? WaitableClock::kNever : free_places_.front();
    }
    return start_ns_ + static_cast<int64_t>(options_.arrivals_s[next_first_] * 1e9);
  }

  /// Draws the prompt of the next first turn before it is due, so that sending takes no time.
  void prepare_next() {
    if (!prepared_ && !all_started()) {
      prepared_ = make_request(workload_, first_turns_[next_first_]);
    }
  }

  /// Sends further turns first: their conversations hold places.
  base::Status send_due() {
    while (!further_turns_.empty()) {
      const Finished before = further_turns_.front();
      further_turns_.pop_front();
      const size_t index = *followers_[before.index];
      FF_TRY(send(index, make_request(workload_, index, prompts_[before.index]), before.at_ns));
      prompts_[before.index] = {};
    }
    while (next_arrival_ns() <= clock_.now_ns()) {
      const int64_t scheduled_ns = next_arrival_ns();
      if (options_.concurrency > 0) free_places_.pop_front();
      prepare_next();
      engine::Request request = *std::exchange(prepared_, std::nullopt);
      FF_TRY(send(first_turns_[next_first_++], std::move(request), scheduled_ns));
    }
    return {};
  }

  base::Status send(size_t index, engine::Request request, int64_t scheduled_ns) {
    if (followers_[index]) prompts_[index] = request.prompt;
    {
      const std::lock_guard lock(inbox_->mutex);
      RequestLog& log = inbox_->logs[index];
      log.prompt_tokens = std::ssize(request.prompt);
      log.scheduled_ns = scheduled_ns;
      log.sent_ns = clock_.now_ns();
    }
    return submit_(std::move(request), [inbox = inbox_, index](const Arrival& arrival) {
      receive(*inbox, index, arrival);
    });
  }

  base::Status collect() {
    std::vector<Finished> finished;
    {
      const std::lock_guard lock(inbox_->mutex);
      if (!inbox_->failure.empty()) return base::fail("{}", inbox_->failure);
      finished.swap(inbox_->finished);
      for (const Finished& f : finished) {
        const std::vector<engine::TokenId>& output = inbox_->outputs[f.index];
        prompts_[f.index].insert(prompts_[f.index].end(), output.begin(), output.end());
      }
    }
    for (const Finished& f : finished) {
      if (followers_[f.index]) {
        further_turns_.push_back(f);
      } else if (options_.concurrency > 0) {
        free_places_.push_back(f.at_ns);
      }
    }
    done_ += finished.size();
    if (!finished.empty() && options_.on_finished) options_.on_finished(done_);
    return {};
  }

  const Workload& workload_;
  const RunOptions& options_;
  WaitableClock& clock_;
  const Submit& submit_;
  std::shared_ptr<Inbox> inbox_;
  std::vector<size_t> first_turns_;
  std::vector<std::optional<size_t>> followers_;
  /// Of requests that another one follows: their prompt, then also their output.
  std::vector<std::vector<engine::TokenId>> prompts_;
  size_t next_first_ = 0;
  std::optional<engine::Request> prepared_;  ///< first_turns_[next_first_]
  std::deque<Finished> further_turns_;       ///< finished, and the turn after is to be sent
  std::deque<int64_t> free_places_;          ///< closed loop: since when they are free
  int64_t start_ns_ = 0;
  int64_t end_ns_ = 0;
  size_t done_ = 0;
};

}  // namespace

base::Result<LoadRun> run_load(const Workload& workload, const RunOptions& options,
                               WaitableClock& clock, const Submit& submit) {
  LoadRun out;
  Run run(workload, options, clock, submit);
  FF_ASSIGN(out.requests, run.run());
  out.wall_s = run.wall_s();
  const Pacing pacing = options.concurrency > 0 ? Pacing::kClosed : Pacing::kOpen;
  out.metrics = measure(out.requests, options.slo, pacing);
  return out;
}

}  // namespace fourfold::load
