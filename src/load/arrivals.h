#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fourfold::load {

/// When requests are due that arrive by themselves (an open loop).
struct ArrivalOptions {
  double rate = 0;  ///< requests/s on average, > 0
  /// Shape of the gamma distribution of the gaps, whose scale is 1 / (rate * burstiness). 1: a
  /// Poisson process; below: bursts; above: more even. > 0.
  double burstiness = 1;
  uint64_t seed = 0;
};

/// Seconds after the start at which each of `count` requests is due, as `vllm bench serve
/// --request-rate --burstiness` draws them: sums of gamma gaps, then scaled so that the last
/// request is due at count / rate (so the mean rate is exact whatever the seed). The draws depend
/// on (seed, index) alone: all schemes get the same arrivals, and at another rate they are the same
/// ones stretched.
std::vector<double> draw_arrivals(size_t count, const ArrivalOptions& options);

/// Recorded times stretched so that the last one is count / rate: the trace's pattern at another
/// mean rate. Times that are all 0 stay so.
std::vector<double> scale_to_rate(std::vector<double> arrivals_s, double rate);

}  // namespace fourfold::load
