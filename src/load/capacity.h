#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "load/metrics.h"

namespace fourfold::load {

/// Whether requests came faster than they were served, so that the queue grew until the last one
/// had come: such a run measures its own length, not a latency. Looks at the time between the first
/// and the last arrival (RequestLog::scheduled_ns), cut into quarters, the first of which only
/// fills the engine. Exceeded means all of:
/// - the mean number of unfinished requests rises from the second quarter to the third and the
///   fourth;
/// - the last three quarters, cut into nine slices, have more arrivals than departures on average
///   over the slices (t test, one-sided, 5 %), so a burst alone is none;
/// - requests of the last quarter took at least 1.1 times as long as those of the second: this
/// tells
///   a queue from an engine that still fills because one request takes long.
/// On simulated queues of 1 and 16 servers with 100 requests this finds twice the capacity in 94 %
/// of the runs and more, 1.5 times in 59 to 94 %, and cries wolf in at most 2.5 % at 0.9 of it and
/// in 1 % at 0.8. False where fewer than 20 requests finished: they show nothing.
bool capacity_exceeded(std::span<const RequestLog> requests);

/// A point of a sweep over rising concurrency.
struct SweepPoint {
  double concurrency = 0;
  double throughput = 0;
};
/// Whether the last step of the sweep gained less than 5 % for a doubling of the concurrency (steps
/// of another size are converted to a doubling). Needs two points.
bool sweep_saturated(std::span<const SweepPoint> points);

/// The highest rate that meets a service level, by doubling and halving until one rate meets it and
/// one does not, then by bisection (of the logarithm) between the two.
struct RateSearchOptions {
  double first_rate = 1;    ///< where to begin, requests/s
  double tolerance = 0.05;  ///< stop when the bracket is narrower than this share of its lower end
  int max_runs = 12;
};
struct RateProbe {
  double rate = 0;
  bool met = false;
};
struct RateSearch {
  std::optional<double> met;     ///< highest rate that met the service level; none of those tried
  std::optional<double> missed;  ///< lowest rate that did not; none of those tried
  std::vector<RateProbe> probes;

  /// Width of the bracket as a share of its lower end; nothing where an end is missing.
  std::optional<double> width() const {
    if (!met || !missed) return std::nullopt;
    return *missed / *met - 1;
  }
};
/// `evaluate(rate)` says whether the service level is met; it is called at most max_runs times with
/// rates that depend on its answers alone. Errors: those of `evaluate`.
base::Result<RateSearch> search_rate(const RateSearchOptions& options,
                                     const std::function<base::Result<bool>(double)>& evaluate);

}  // namespace fourfold::load
