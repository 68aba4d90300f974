#include "load/capacity.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "load/statistics.h"

namespace fourfold::load {
namespace {

constexpr size_t kMinRequests = 20;
constexpr int kSlices = 9;        // of the last three quarters
constexpr double kSliceT = 1.86;  // Student's t with 8 degrees of freedom, one-sided 5 %
constexpr double kSlowdown = 1.1;
constexpr double kLeastGainOfDoubling = 0.05;

/// One finished request: when it came and when it had its last token.
struct Stay {
  double arrival = 0;
  double departure = 0;
};

/// The arrivals' time in quarters.
class Quarters {
 public:
  explicit Quarters(const std::vector<Stay>& stays) : stays_(stays) {
    begin_ = end_ = stays.front().arrival;
    for (const Stay& s : stays) {
      begin_ = std::min(begin_, s.arrival);
      end_ = std::max(end_, s.arrival);
    }
  }
  double border(int quarter) const { return begin_ + (end_ - begin_) * quarter / 4; }

  /// Requests under way, on average over the quarter's time.
  double backlog(int quarter) const {
    double time = 0;
    for (const Stay& s : stays_) {
      time += std::max(
          0.0, std::min(s.departure, border(quarter + 1)) - std::max(s.arrival, border(quarter)));
    }
    return time / (border(1) - border(0));
  }
  /// Mean time that those took that came in the quarter.
  double latency(int quarter) const {
    std::vector<double> values;
    for (const Stay& s : stays_) {
      if (s.arrival >= border(quarter) && s.arrival <= border(quarter + 1)) {
        values.push_back(s.departure - s.arrival);
      }
    }
    return mean(values);
  }

 private:
  const std::vector<Stay>& stays_;
  double begin_ = 0;
  double end_ = 0;
};

/// Whether departures between `begin` and `end` fall behind arrivals by more than chance.
bool departures_lag(const std::vector<Stay>& stays, double begin, double end) {
  std::array<double, kSlices> growth{};
  const auto count = [&](double time, double change) {
    if (time <= begin || time > end) return;
    const auto slice = static_cast<int>((time - begin) / (end - begin) * kSlices);
    growth[static_cast<size_t>(std::min(slice, kSlices - 1))] += change;
  };
  for (const Stay& s : stays) {
    count(s.arrival, 1);
    count(s.departure, -1);
  }
  return mean(growth) > kSliceT * standard_error(growth);
}

}  // namespace

bool capacity_exceeded(std::span<const RequestLog> requests) {
  std::vector<Stay> stays;
  for (const RequestLog& r : requests) {
    if (r.failed || r.chunks.empty()) continue;
    stays.push_back({.arrival = static_cast<double>(r.scheduled_ns),
                     .departure = static_cast<double>(r.chunks.back().at_ns)});
  }
  if (stays.size() < kMinRequests) return false;
  const Quarters quarters(stays);
  if (quarters.border(4) <= quarters.border(0)) return false;
  const bool rises =
      quarters.backlog(1) < quarters.backlog(2) && quarters.backlog(2) < quarters.backlog(3);
  const bool slows = quarters.latency(3) >= kSlowdown * quarters.latency(1);
  return rises && slows && departures_lag(stays, quarters.border(1), quarters.border(4));
}

bool sweep_saturated(std::span<const SweepPoint> points) {
  if (points.size() < 2) return false;
  const SweepPoint& last = points.back();
  const SweepPoint& before = points[points.size() - 2];
  CHECK(before.concurrency > 0 && last.concurrency > before.concurrency,
        "a sweep from concurrency {} to {}", before.concurrency, last.concurrency);
  if (before.throughput <= 0) return false;
  const double doublings = std::log2(last.concurrency / before.concurrency);
  const double gain = std::pow(last.throughput / before.throughput, 1 / doublings) - 1;
  return gain < kLeastGainOfDoubling;
}

base::Result<RateSearch> search_rate(const RateSearchOptions& options,
                                     const std::function<base::Result<bool>(double)>& evaluate) {
  CHECK(options.first_rate > 0 && options.tolerance > 0, "first rate {}, tolerance {}",
        options.first_rate, options.tolerance);
  RateSearch out;
  double rate = options.first_rate;
  for (int run = 0; run < options.max_runs; ++run) {
    FF_ASSIGN(const bool met, evaluate(rate));
    out.probes.push_back({.rate = rate, .met = met});
    (met ? out.met : out.missed) = rate;
    if (!out.missed) {
      rate *= 2;
    } else if (!out.met) {
      rate /= 2;
    } else if (*out.width() <= options.tolerance) {
      break;
    } else {
      rate = std::sqrt(*out.met * *out.missed);
    }
  }
  return out;
}

}  // namespace fourfold::load
