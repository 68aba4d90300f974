#include "route/route_metrics.h"

#include <fmt/format.h>

namespace fourfold::route {
namespace {

constexpr std::array<double, 18> kSeconds = {0.001, 0.005, 0.01, 0.025, 0.05,  0.1,
                                             0.25,  0.5,   1.0,  2.5,   5.0,   10.0,
                                             20.0,  40.0,  80.0, 160.0, 640.0, 2560.0};
constexpr std::array<const char*, 4> kRetryReasons = {"unreachable", "lost", "status", "ejected"};

}  // namespace

RouteMetrics::RouteMetrics() : first_byte_s_(kSeconds), request_s_(kSeconds) {}

void RouteMetrics::count_request(const std::string& replica, const std::string& outcome,
                                 double seconds) {
  ++requests_[{replica, outcome}];
  request_s_.observe(seconds);
}

std::string RouteMetrics::page(const ReplicaTable& replicas, int64_t connections) const {
  serve::MetricsPage page;
  const auto of_each = [&](std::string_view name, std::string_view type, std::string_view help,
                           auto value) {
    page.family(name, type, help);
    for (const Replica& replica : replicas.all()) {
      page.sample(fmt::format("replica=\"{}\"", serve::label_text(replica.name)),
                  static_cast<double>(value(replica)));
    }
  };
  page.family("fourfold:route_requests_total", "counter",
              "Requests that are over, by the last replica that had them and how they ended.");
  for (const auto& [key, count] : requests_) {
    page.sample(
        fmt::format("replica=\"{}\",outcome=\"{}\"", serve::label_text(key.first), key.second),
        static_cast<double>(count));
  }
  page.family("fourfold:route_retries_total", "counter",
              "Requests that were sent to another replica, by why.");
  for (size_t i = 0; i < kRetryReasons.size(); ++i) {
    page.sample(fmt::format("reason=\"{}\"", kRetryReasons[i]), static_cast<double>(retries_[i]));
  }
  page.family("fourfold:route_retries_refused_total", "counter",
              "Requests that were not sent again because the budget was spent.");
  page.sample("", static_cast<double>(refused_retries_));
  page.family("fourfold:route_events_total", "counter", "Events of streams that were passed on.");
  page.sample("", static_cast<double>(events_));
  of_each("fourfold:route_replica_in_use", "gauge", "1 while the replica gets requests.",
          [](const Replica& r) { return r.takes_requests() ? 1 : 0; });
  of_each("fourfold:route_ejections_total", "counter", "Times that the replica was taken out.",
          [](const Replica& r) { return r.health.ejections(); });
  of_each("fourfold:route_outstanding_requests", "gauge", "Requests under way on the replica.",
          [](const Replica& r) { return r.requests; });
  of_each("fourfold:route_outstanding_tokens", "gauge",
          "Their tokens: prompts to compute and output to sample at most, as estimated.",
          [](const Replica& r) { return r.tokens; });
  of_each("fourfold:route_foreign_requests", "gauge",
          "Requests that others have on the replica, as it tells.",
          [](const Replica& r) { return r.foreign_requests; });
  page.family("fourfold:route_first_byte_seconds", "histogram",
              "From a request's arrival to the first byte of its answer.");
  page.samples("", first_byte_s_);
  page.family("fourfold:route_request_seconds", "histogram",
              "From a request's arrival to the end of its answer.");
  page.samples("", request_s_);
  page.family("fourfold:route_connections", "gauge", "Open connections of clients.");
  page.sample("", static_cast<double>(connections));
  return page.take();
}

}  // namespace fourfold::route
