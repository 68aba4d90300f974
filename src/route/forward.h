#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "http/connection_pool.h"
#include "http/exchange.h"
#include "route/estimate.h"
#include "route/event_counter.h"
#include "route/replica_table.h"
#include "route/route_metrics.h"

namespace fourfold::route {

class Router;

/// One request on its way through the router. Until the first byte of its answer has gone to the
/// client, another replica may be asked; after that the answer goes on or is seen to be cut.
class Forward : public std::enable_shared_from_this<Forward> {
 public:
  /// Replicas that one request is sent to at most.
  static constexpr size_t kMostReplicas = 3;

  Forward(Router& router, std::shared_ptr<http::Exchange> exchange);

  void begin();
  /// The replica may not answer: another one is asked, if one may be. Otherwise it stays where it
  /// is.
  void move();
  /// The replica will not answer: another one is asked, or the client is told.
  void cut();
  /// Forgets it without a word to the client.
  void abandon();

  /// Which has it now; invalid: none.
  ReplicaId replica() const { return place_ ? place_->replica : ReplicaId(); }

 private:
  void send(const Place& place);
  bool retry(RetryReason reason);
  void take_head(const http::ResponseHead& head);
  void take_body(std::string_view bytes);
  void take_end(const http::CallError* error);
  void begin_answer();
  void refuse(int status, const std::string& message);
  void break_off();
  void leave();
  void finish(const std::string& outcome);

  Router& router_;
  std::shared_ptr<http::Exchange> exchange_;
  Estimate estimate_;
  std::string request_id_;
  bool repeatable_;  ///< it does no harm if two replicas see it
  int64_t arrival_ns_;
  std::vector<ReplicaId> tried_;
  std::optional<Place> place_;
  std::string replica_name_;
  std::shared_ptr<http::Call> call_;
  http::ResponseHead head_;
  bool is_stream_ = false;
  bool begun_ = false;
  EventCounter events_;
};

}  // namespace fourfold::route
