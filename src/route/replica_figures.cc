#include "route/replica_figures.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace fourfold::route {
namespace {

/// The value of a sample `NAME{LABELS} VALUE`, where `name` is that one.
std::optional<double> sample(std::string_view line, std::string_view name) {
  if (!line.starts_with(name)) return std::nullopt;
  line.remove_prefix(name.size());
  if (line.starts_with('{')) {
    const size_t end = line.rfind('}');
    if (end == line.npos) return std::nullopt;
    line.remove_prefix(end + 1);
  }
  if (!line.starts_with(' ')) return std::nullopt;
  line.remove_prefix(1);
  double value = 0;
  const auto [rest, error] = std::from_chars(line.data(), line.data() + line.size(), value);
  if (error != std::errc() || !std::isfinite(value) || value < 0) return std::nullopt;
  return value;
}

}  // namespace

ReplicaFigures read_figures(std::string_view page) {
  constexpr double kMostRequests = 1e9;
  ReplicaFigures out;
  while (!page.empty()) {
    const size_t end = std::min(page.find('\n'), page.size());
    const std::string_view line = page.substr(0, end);
    page.remove_prefix(std::min(end + 1, page.size()));
    if (const auto usage = sample(line, "vllm:kv_cache_usage_perc")) {
      out.kv_usage = std::max(out.kv_usage.value_or(0), std::min(*usage, 1.0));
    }
    for (const char* name : {"vllm:num_requests_running", "vllm:num_requests_waiting"}) {
      if (const auto requests = sample(line, name)) {
        out.requests =
            out.requests.value_or(0) + static_cast<int64_t>(std::min(*requests, kMostRequests));
      }
    }
  }
  return out;
}

}  // namespace fourfold::route
