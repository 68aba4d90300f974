#include "verify/load_plan.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "load/arrivals.h"

namespace fourfold::verify {
namespace {

/// An open loop without --requests runs for about so long, with at least so many requests: enough
/// for a 90th percentile and to see whether the queue grows.
constexpr double kOpenLoopSeconds = 15;
constexpr int32_t kFewestOpenLoop = 40;

uint64_t seed_of(const VerifyOptions& options, int repeat) {
  return options.seed + 1 + static_cast<uint64_t>(repeat);
}

/// Requests/s of the part of the trace that is replayed.
double trace_rate(const VerifyOptions& options) {
  const std::vector<load::TraceRecord>& records = options.trace->trace.records;
  const auto count = static_cast<size_t>(requests_at(options, {}));
  const double seconds = records[count - 1].arrival_s - records.front().arrival_s;
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

}  // namespace

std::string LoadPoint::name() const {
  return concurrency > 0 ? fmt::format("c{}", concurrency) : fmt::format("{:.4g}/s", rate);
}

std::optional<LoadPoint> LoadPoint::divided(int devices, int baseline_devices) const {
  if (concurrency == 0) return LoadPoint{.rate = rate * baseline_devices / devices};
  if (concurrency * baseline_devices % devices != 0) return std::nullopt;
  return LoadPoint{.concurrency = concurrency * baseline_devices / devices};
}

std::string load_kind(const VerifyOptions& options) {
  if (options.trace) return "trace";
  if (options.rates.empty()) return "closed";
  return options.burstiness == 1 ? "poisson" : "gamma";
}

int32_t requests_at(const VerifyOptions& options, const LoadPoint& point) {
  int32_t wanted = options.requests;
  if (wanted == 0 && point.concurrency > 0) wanted = std::max(4, 2 * point.concurrency);
  if (wanted == 0) {
    wanted =
        std::max(kFewestOpenLoop, static_cast<int32_t>(std::lround(kOpenLoopSeconds * point.rate)));
  }
  if (!options.trace) return wanted;
  return std::min(wanted, static_cast<int32_t>(options.trace->trace.records.size()));
}

std::vector<LoadPoint> load_points(const VerifyOptions& options) {
  std::vector<LoadPoint> out;
  for (const double rate : options.rates) out.push_back({.rate = rate});
  if (!out.empty()) return out;
  if (options.sweep) {
    for (int c = 1; c <= kMostConcurrency; c *= 2) out.push_back({.concurrency = c});
    return out;
  }
  for (const int c : options.concurrencies) out.push_back({.concurrency = c});
  if (out.empty()) out.push_back({.rate = trace_rate(options)});
  return out;
}

base::Result<load::Workload> make_workload(const VerifyOptions& options, const LoadPoint& point,
                                           int repeat, int64_t vocab, int64_t max_positions) {
  const uint64_t seed = seed_of(options, repeat);
  load::Workload workload;
  if (options.trace) {
    FF_ASSIGN(workload, load::trace_workload(options.trace->trace,
                                             {.length_scale = options.trace->length_scale,
                                              .max_requests = requests_at(options, point),
                                              .max_positions = max_positions,
                                              .skip_too_long = options.trace->skip_too_long,
                                              .vocab = vocab,
                                              .seed = seed}));
  } else {
    workload = load::synthetic_workload({.input_len = options.input_len,
                                         .output_len = options.output_len,
                                         .conversations = requests_at(options, point),
                                         .turns = options.turns,
                                         .shared_prefix = options.shared_prefix,
                                         .vocab = vocab,
                                         .seed = seed});
  }
  load::set_sampling(workload, options.sampling);
  return workload;
}

load::RunOptions run_options(const VerifyOptions& options, const LoadPoint& point, int repeat,
                             const load::Workload& workload) {
  load::RunOptions out{.concurrency = point.concurrency, .arrivals_s = {}, .slo = options.slo};
  if (point.concurrency > 0) return out;
  const auto first_turns = static_cast<size_t>(
      std::count_if(workload.requests.begin(), workload.requests.end(),
                    [](const load::PlannedRequest& r) { return r.follows < 0; }));
  if (!options.trace) {
    out.arrivals_s = load::draw_arrivals(
        first_turns,
        {.rate = point.rate, .burstiness = options.burstiness, .seed = seed_of(options, repeat)});
  } else {
    // A trace whose requests all come at once has no rate.
    out.arrivals_s =
        point.rate > 0 ? load::scale_to_rate(workload.arrivals_s, point.rate) : workload.arrivals_s;
  }
  return out;
}

base::Result<int64_t> longest_sequence(const VerifyOptions& options, int64_t max_positions) {
  int64_t longest = 0;
  for (const LoadPoint& point : load_points(options)) {
    FF_ASSIGN(const load::Workload workload,
              make_workload(options, point, 0, /*vocab=*/2, max_positions));
    longest = std::max(longest, load::longest_tokens(workload));
  }
  return longest;
}

}  // namespace fourfold::verify
