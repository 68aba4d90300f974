#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "http/server.h"
#include "route/prober.h"
#include "route/replica_table.h"
#include "route/retry_budget.h"
#include "route/route_metrics.h"

namespace fourfold::route {

struct RouterOptions {
  ProbeOptions probe;
  int64_t connect_ns = 5'000'000'000;
  int64_t silence_ns = 600'000'000'000;  ///< of a replica that has a request
  bool pass_keys = true;  ///< clients' keys are the replicas': the router has none of its own
};

class Forward;

/// Passes requests on to replicas, and looks after these. Its members are called on the server's
/// thread.
class Router {
 public:
  /// `server` and `clock` outlive the router; the server's run() has returned when it dies.
  Router(http::Server& server, const base::Clock& clock, const RouterOptions& options);
  ~Router();
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;

  /// Shown to replicas; "": none.
  void set_replica_key(std::string key) { replica_key_ = std::move(key); }

  /// Begins to probe it. Errors: it is there already; the router ends (stopped()).
  base::Status add(const http::Url& url);
  /// No more requests for it; those under way go on.
  void drain(Replica& replica);
  /// Forgets it; requests under way there are cut, or sent to others if nothing has come yet.
  void remove(ReplicaId id);
  /// Calls `callback` once, when every replica has been probed.
  void when_probed(std::function<void()> callback);
  /// Ends all probes for good, so that the server's run() can return.
  void stop_probes();
  bool stopped() const { return stopped_; }

  void forward(std::shared_ptr<http::Exchange> exchange);

  ReplicaTable& replicas() { return table_; }
  RouteMetrics& metrics() { return metrics_; }
  int64_t open_requests() const { return std::ssize(forwards_); }

  // For Forward.
  const RouterOptions& options() const { return options_; }
  const base::Clock& clock() const { return clock_; }
  const std::string& replica_key() const { return replica_key_; }
  RetryBudget& budget() { return budget_; }
  std::string new_request_id();
  std::shared_ptr<http::Call> send(ReplicaId id, http::ClientRequest request,
                                   http::CallHandlers handlers);
  void unreachable(ReplicaId id, const std::string& why);
  void request_failed(ReplicaId id, const std::string& why);
  void forget(const Forward& forward);

 private:
  struct Link;

  void take_health(ReplicaId id, const Fetched& health);
  void take_models(ReplicaId id, const std::string& body);
  void end_round(ReplicaId id);
  void tell(Replica& replica, ReplicaHealth::Change change, const std::string& why);
  std::vector<std::shared_ptr<Forward>> forwards_at(ReplicaId id) const;

  http::Server& server_;
  const base::Clock& clock_;
  RouterOptions options_;
  std::string replica_key_;
  ReplicaTable table_;
  std::map<ReplicaId, std::unique_ptr<Link>> links_;
  std::unordered_map<const Forward*, std::shared_ptr<Forward>> forwards_;
  RetryBudget budget_;
  RouteMetrics metrics_;
  std::mt19937_64 random_;
  std::function<void()> when_probed_;
  bool stopped_ = false;  ///< by stop_probes()
};

}  // namespace fourfold::route
