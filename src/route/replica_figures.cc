#include "route/replica_figures.h"

#include <algorithm>
#include <cmath>

#include "http/metrics_reader.h"

namespace fourfold::route {

ReplicaFigures read_figures(std::string_view page) {
  constexpr double kMostRequests = 1e9;
  ReplicaFigures out;
  for (const http::MetricSample& sample : http::read_metrics(page)) {
    if (!std::isfinite(sample.value) || sample.value < 0) continue;
    if (sample.name == "vllm:kv_cache_usage_perc") {
      out.kv_usage = std::max(out.kv_usage.value_or(0), std::min(sample.value, 1.0));
    }
    if (sample.name == "vllm:num_requests_running" || sample.name == "vllm:num_requests_waiting") {
      out.requests =
          out.requests.value_or(0) + static_cast<int64_t>(std::min(sample.value, kMostRequests));
    }
  }
  return out;
}

}  // namespace fourfold::route
