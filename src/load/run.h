#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/request.h"
#include "load/metrics.h"
#include "load/slo.h"
#include "load/workload.h"

namespace fourfold::load {

/// A clock that can also be waited on, so that a simulation can bring its own time.
class WaitableClock : public base::Clock {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  /// Returns at `deadline_ns`, or earlier after wake() was called since the last return.
  virtual void wait_until(int64_t deadline_ns) = 0;
  /// Ends the current or the next wait_until(). From any thread.
  virtual void wake() = 0;
};

/// The machine's steady clock.
class SteadyWaitableClock final : public WaitableClock {
 public:
  int64_t now_ns() const override { return clock_.now_ns(); }
  void wait_until(int64_t deadline_ns) override;
  void wake() override;

 private:
  base::SteadyClock clock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false;
};

/// Tokens of one request that arrived together.
struct Arrival {
  std::span<const engine::TokenId> tokens;  ///< valid during the call
  bool finished = false;
  /// With `finished`: how many the output has, where the server says so.
  std::optional<int64_t> told_tokens = std::nullopt;
  std::string failure;  ///< not empty: the request ended without its tokens
  int64_t now_ns = 0;
};
using Sink = std::function<void(const Arrival&)>;
/// Sends a request; `sink` is then called, from any thread, until an arrival is finished.
using Submit = std::function<base::Status(engine::Request, Sink sink)>;

struct RunOptions {
  /// Closed loop: so many requests (one for each conversation) are outstanding until all have been
  /// sent. 0: open loop, in which first turns are sent at `arrivals_s`, whatever is outstanding.
  int concurrency = 0;
  /// Open loop: seconds after the start for each first turn, not falling.
  std::vector<double> arrivals_s;
  Slo slo;  ///< for the goodput
  /// A request that fails is marked so in its log, and the run goes on. Not with further turns.
  bool count_failures = false;
  /// Called from the calling thread with the number of finished requests, whenever it grew.
  std::function<void(size_t done)> on_finished;
  /// Looked at every kStopTickNs while nothing happens: true ends the run with an error.
  std::function<bool()> stop;
};
inline constexpr int64_t kStopTickNs = 50'000'000;

/// What one run of a load did.
struct LoadRun {
  std::vector<RequestLog> requests;  ///< in the order of the workload
  double wall_s = 0;                 ///< from the start to the end of the last request
  RunMetrics metrics;
};

/// Sends every request of the workload and waits for the last. A further turn is sent as soon as
/// the turn before it has finished, and its prompt contains what that turn really answered; it
/// takes over the place of that turn under `concurrency`. Errors: a request could not be sent or
/// failed, unless failures are counted; the sinks of the others may still be called and do nothing.
base::Result<LoadRun> run_load(const Workload& workload, const RunOptions& options,
                               WaitableClock& clock, const Submit& submit);

}  // namespace fourfold::load
