#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "route/replica_table.h"
#include "serve/metrics_page.h"

namespace fourfold::route {

/// Why a request was sent to another replica.
enum class RetryReason : uint8_t { kUnreachable, kLost, kStatus, kEjected };

/// What the router's /metrics tells. Used on the server's thread.
class RouteMetrics {
 public:
  RouteMetrics();

  /// A request is over. `outcome`: "2xx" to "5xx", "cut" (after its answer had begun) or "gone"
  /// (its client is). `replica`: the last one that had it; "": none.
  void count_request(const std::string& replica, const std::string& outcome, double seconds);
  void count_retry(RetryReason reason) { ++retries_[static_cast<size_t>(reason)]; }
  void count_refused_retry() { ++refused_retries_; }
  void count_tokens(int64_t events) { events_ += events; }
  void observe_first_byte(double seconds) { first_byte_s_.observe(seconds); }

  /// The page, in Prometheus' text format 0.0.4.
  std::string page(const ReplicaTable& replicas, int64_t connections) const;

 private:
  std::map<std::pair<std::string, std::string>, int64_t> requests_;
  std::array<int64_t, 4> retries_{};
  int64_t refused_retries_ = 0;
  int64_t events_ = 0;
  serve::Histogram first_byte_s_;
  serve::Histogram request_s_;
};

}  // namespace fourfold::route
