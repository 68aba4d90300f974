#include "measure/top_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "files/printable.h"
#include "http/metrics_reader.h"

namespace fourfold::measure {
namespace {

using http::MetricSample;
using Samples = std::vector<MetricSample>;

constexpr std::string_view kNothing = "–";

/// Counts of a histogram up to each bound, all its series together.
using Buckets = std::map<double, double>;

class Looks {
 public:
  Looks(const ServerLook& before, const ServerLook& now)
      : before_(http::read_metrics(before.page)),
        now_(http::read_metrics(now.page)),
        seconds_(std::max(1e-9, now.at_s - before.at_s)) {}

  bool has(std::string_view name) const {
    return std::any_of(now_.begin(), now_.end(),
                       [&](const MetricSample& sample) { return sample.name == name; });
  }
  /// Of all series, or of those with this label.
  double sum(std::string_view name, std::string_view label = {},
             const std::string& value = {}) const {
    return sum(now_, name, label, value);
  }
  double per_second(std::string_view name, std::string_view label = {},
                    const std::string& value = {}) const {
    // A server that was started again counts from zero.
    return std::max(0.0, sum(now_, name, label, value) - sum(before_, name, label, value)) /
           seconds_;
  }
  /// The values of a label among the series of this name, in their order.
  std::vector<std::string> values_of(std::string_view name, std::string_view label) const {
    std::vector<std::string> out;
    for (const MetricSample& sample : now_) {
      if (sample.name != name) continue;
      auto value = sample.label(label);
      if (value && std::find(out.begin(), out.end(), *value) == out.end()) {
        out.push_back(std::move(*value));
      }
    }
    return out;
  }
  /// Where half of what was counted lies, in whole buckets with an even spread in each.
  std::optional<double> median(std::string_view name) const {
    const Buckets all = buckets(now_, name);
    Buckets between = all;
    for (const auto& [bound, count] : buckets(before_, name)) between[bound] -= count;
    const std::optional<double> lately = median_of(between);
    return lately ? lately : median_of(all);
  }

 private:
  static double sum(const Samples& samples, std::string_view name, std::string_view label,
                    const std::string& value) {
    double total = 0;
    for (const MetricSample& sample : samples) {
      if (sample.name != name) continue;
      if (label.empty() || sample.label(label) == value) total += sample.value;
    }
    return total;
  }
  static Buckets buckets(const Samples& samples, std::string_view name) {
    Buckets out;
    for (const MetricSample& sample : samples) {
      if (!sample.name.ends_with("_bucket") ||
          sample.name.substr(0, sample.name.size() - 7) != name)
        continue;
      const auto bound = sample.label("le");
      if (!bound) continue;
      out[*bound == "+Inf" ? INFINITY : std::strtod(bound->c_str(), nullptr)] += sample.value;
    }
    return out;
  }
  static std::optional<double> median_of(const Buckets& buckets) {
    if (buckets.empty() || !(buckets.rbegin()->second > 0)) return std::nullopt;
    const double half = buckets.rbegin()->second / 2;
    double below_bound = 0;
    double below = 0;
    for (const auto& [bound, count] : buckets) {
      if (count >= half) {
        if (std::isinf(bound) || count <= below) return below_bound;
        return below_bound + (bound - below_bound) * (half - below) / (count - below);
      }
      below_bound = bound;
      below = count;
    }
    return std::nullopt;
  }

  Samples before_;
  Samples now_;
  double seconds_;
};

std::string seconds(std::optional<double> value) {
  if (!value) return std::string(kNothing);
  return *value < 1 ? fmt::format("{:.3g} ms", *value * 1e3) : fmt::format("{:.3g} s", *value);
}

std::string percent(double share) { return fmt::format("{:.0f} %", share * 100); }

std::string whole(double value) { return fmt::format("{:.0f}", value); }

/// Columns as wide as what stands in them, the first to the left, others to the right.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    out += fmt::format("{:<{}}", row[0], widths[0]);
    for (size_t i = 1; i < row.size(); ++i) out += fmt::format("  {:>{}}", row[i], widths[i]);
    out += '\n';
  }
  return out;
}

std::string engines_view(const Looks& looks) {
  std::string out = fmt::format(
      "output {:.0f} tok/s, prompts {:.0f} tok/s, running {:.0f}, waiting {:.0f}\n"
      "p50: TTFT {}, TPOT {}, between tokens {}, request {}\n",
      looks.per_second("vllm:generation_tokens_total"),
      looks.per_second("vllm:prompt_tokens_total"), looks.sum("vllm:num_requests_running"),
      looks.sum("vllm:num_requests_waiting"),
      seconds(looks.median("vllm:time_to_first_token_seconds")),
      seconds(looks.median("vllm:request_time_per_output_token_seconds")),
      seconds(looks.median("vllm:inter_token_latency_seconds")),
      seconds(looks.median("vllm:e2e_request_latency_seconds")));
  const bool own = looks.has("fourfold:group_up");
  std::vector<std::vector<std::string>> rows = {
      {"engine", "running", "waiting", "KV", "prefix hits", "preempted"}};
  if (own) {
    for (const char* head : {"state", "ranks", "stages", "steps/s", "plans", "waits", "restarts"}) {
      rows[0].emplace_back(head);
    }
  }
  for (const std::string& engine : looks.values_of("vllm:num_requests_running", "engine")) {
    const auto sum = [&](const char* name) { return looks.sum(name, "engine", engine); };
    const auto rate = [&](const char* name) { return looks.per_second(name, "engine", engine); };
    const double queried = sum("vllm:prefix_cache_queries_total");
    const double hits = sum("vllm:prefix_cache_hits_total");
    std::vector<std::string>& row = rows.emplace_back();
    row = {files::printable(engine),
           whole(sum("vllm:num_requests_running")),
           whole(sum("vllm:num_requests_waiting")),
           percent(sum("vllm:kv_cache_usage_perc")),
           queried > 0 ? percent(hits / queried) : "-",
           whole(sum("vllm:num_preemptions_total"))};
    if (!own) continue;
    row.insert(row.end(),
               {sum("fourfold:group_up") > 0 ? "up" : "down", whole(sum("fourfold:group_ranks")),
                whole(sum("fourfold:group_stages")), whole(rate("fourfold:steps_total")),
                percent(rate("fourfold:engine_plan_seconds_total")),
                percent(rate("fourfold:engine_wait_seconds_total")),
                whole(sum("fourfold:group_restarts_total"))});
  }
  return out + table(rows);
}

std::string route_view(const Looks& looks) {
  std::string out = fmt::format(
      "requests {:.1f}/s, events {:.0f}/s, retries {:.1f}/s, connections {:.0f}\n"
      "p50: first byte {}, request {}\n",
      looks.per_second("fourfold:route_requests_total"),
      looks.per_second("fourfold:route_events_total"),
      looks.per_second("fourfold:route_retries_total"), looks.sum("fourfold:route_connections"),
      seconds(looks.median("fourfold:route_first_byte_seconds")),
      seconds(looks.median("fourfold:route_request_seconds")));
  std::vector<std::vector<std::string>> rows = {
      {"replica", "state", "requests", "tokens", "others'", "req/s", "ejections"}};
  for (const std::string& replica : looks.values_of("fourfold:route_replica_in_use", "replica")) {
    const auto sum = [&](const char* name) { return looks.sum(name, "replica", replica); };
    rows.push_back(
        {files::printable(replica), sum("fourfold:route_replica_in_use") > 0 ? "in use" : "out",
         whole(sum("fourfold:route_outstanding_requests")),
         whole(sum("fourfold:route_outstanding_tokens")),
         whole(sum("fourfold:route_foreign_requests")),
         fmt::format("{:.1f}",
                     looks.per_second("fourfold:route_requests_total", "replica", replica)),
         whole(sum("fourfold:route_ejections_total"))});
  }
  return out + table(rows);
}

}  // namespace

std::string top_view(const ServerLook& before, const ServerLook& now) {
  const Looks looks(before, now);
  if (looks.has("fourfold:route_connections")) return route_view(looks);
  if (looks.has("vllm:num_requests_running")) return engines_view(looks);
  return "the server's /metrics have neither vLLM's names nor those of fourfold route\n";
}

}  // namespace fourfold::measure
