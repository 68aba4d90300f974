#include "route/forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/log.h"
#include "route/headers.h"
#include "route/router.h"
#include "serve/api_error.h"

namespace fourfold::route {
namespace {

/// Bytes that a client has not taken beyond which no more are taken from the replica.
constexpr int64_t kMostPendingBytes = 256 << 10;

/// Answering such a request twice does no harm but work.
bool is_repeatable(const http::Request& request) {
  constexpr std::array<std::string_view, 5> kPaths = {"/v1/completions", "/v1/chat/completions",
                                                      "/v1/embeddings", "/tokenize", "/detokenize"};
  return request.method == "GET" || request.method == "HEAD" ||
         std::find(kPaths.begin(), kPaths.end(), request.path) != kPaths.end();
}

/// An overloaded server that works: it says when to come again.
bool is_busy(const http::ResponseHead& head) {
  return head.status == 503 && !head.header("retry-after").empty();
}

/// The replica is at fault. 501 and 505 are about the request.
bool is_failure(const http::ResponseHead& head) {
  return head.status >= 500 && head.status != 501 && head.status != 505 && !is_busy(head);
}

/// Another replica may do better. A request that broke one with 500 could break the next.
bool is_worth_a_retry(int status) { return status == 502 || status == 503 || status == 504; }

serve::ApiError replica_error(int status, const std::string& message) {
  return {.status = status,
          .message = message,
          .param = {},
          .code = "replica_failed",
          .retry_after_s = status == 503 ? 1 : 0};
}

}  // namespace

Forward::Forward(Router& router, std::shared_ptr<http::Exchange> exchange)
    : router_(router),
      exchange_(std::move(exchange)),
      estimate_(estimate_request(exchange_->request().path, exchange_->request().body)),
      request_id_(exchange_->request().header("x-request-id")),
      repeatable_(is_repeatable(exchange_->request())),
      arrival_ns_(router.clock().now_ns()) {
  if (request_id_.empty()) request_id_ = router_.new_request_id();
}

void Forward::begin() {
  exchange_->on_gone([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->finish("gone");
  });
  const std::optional<Place> place = router_.replicas().place(estimate_, tried_);
  if (!place) return refuse(503, "no replica takes requests");
  send(*place);
}

void Forward::send(const Place& place) {
  place_ = place;
  tried_.push_back(place.replica);
  replica_name_ = router_.replicas().find(place.replica)->name;
  const http::Request& request = exchange_->request();
  http::ClientRequest out{
      .method = request.method,
      .path = request.query.empty() ? request.path : request.path + "?" + request.query,
      .headers = headers_for_replica(request, router_.replica_key(), router_.options().pass_keys,
                                     request_id_),
      .body = request.body,
      .repeatable = repeatable_,
      .limits = {.connect_ns = router_.options().connect_ns,
                 .silence_ns = router_.options().silence_ns}};
  const auto mine = [weak = weak_from_this()](auto member) {
    return [weak, member](auto argument) {
      if (const auto self = weak.lock()) ((*self).*member)(argument);
    };
  };
  call_ = router_.send(place.replica, std::move(out),
                       {.on_head =
                            [weak = weak_from_this()](const http::ResponseHead& head) {
                              if (const auto self = weak.lock()) self->take_head(head);
                            },
                        .on_body = mine(&Forward::take_body),
                        .on_end = mine(&Forward::take_end)});
}

/// Asks another replica instead; false: there is none, or it may not be.
bool Forward::retry(RetryReason reason) {
  if (begun_ || tried_.size() >= kMostReplicas) return false;
  if (!repeatable_ && reason != RetryReason::kUnreachable) return false;
  std::optional<Place> next = router_.replicas().place(estimate_, tried_);
  if (!next) return false;
  // Where nobody was there, no replica has had work of it.
  if (reason != RetryReason::kUnreachable && !router_.budget().take()) {
    router_.replicas().leave(*next);
    router_.metrics().count_refused_retry();
    return false;
  }
  router_.metrics().count_retry(reason);
  leave();
  send(*next);
  return true;
}

void Forward::take_head(const http::ResponseHead& head) {
  Replica* replica = router_.replicas().find(place_->replica);
  if (is_failure(head)) {
    router_.request_failed(place_->replica, fmt::format("it answered {}", head.status));
  } else if (replica != nullptr) {
    replica->health.request_answered();
  }
  if (is_worth_a_retry(head.status) && retry(RetryReason::kStatus)) return;
  head_ = head;
  is_stream_ = http::lower_case(head.header("content-type")).starts_with("text/event-stream");
}

void Forward::take_body(std::string_view bytes) {
  if (!begun_) begin_answer();
  exchange_->write(bytes);
  if (is_stream_) {
    const int64_t events = events_.push(bytes);
    router_.replicas().sampled(*place_, events);
    router_.metrics().count_tokens(events);
  }
  if (exchange_->pending_bytes() > kMostPendingBytes) call_->pause();
}

void Forward::take_end(const http::CallError* error) {
  using Kind = http::CallError::Kind;
  if (error == nullptr) {
    if (!begun_) begin_answer();
    exchange_->finish();
    return finish(fmt::format("{}xx", head_.status / 100));
  }
  if (error->kind == Kind::kShortage) {
    spdlog::warn("the router is short of what a connection needs: {}", error->message);
    return refuse(503, "the router has no room for another connection");
  }
  if (error->kind == Kind::kUnreachable) {
    router_.unreachable(place_->replica, error->message);
  } else {
    router_.request_failed(place_->replica, error->message);
  }
  if (begun_) return break_off();
  if (error->kind == Kind::kTimeout) return refuse(504, "the replica did not answer in time");
  const RetryReason reason =
      error->kind == Kind::kUnreachable ? RetryReason::kUnreachable : RetryReason::kLost;
  if (!retry(reason)) refuse(502, "the replica did not answer");
}

void Forward::move() { retry(RetryReason::kEjected); }

void Forward::cut() {
  if (begun_) return break_off();
  if (!retry(RetryReason::kEjected)) refuse(502, "the replica did not answer");
}

void Forward::abandon() { finish("cut"); }

void Forward::begin_answer() {
  begun_ = true;
  router_.replicas().begun(*place_);
  router_.metrics().observe_first_byte(
      base::seconds_between(arrival_ns_, router_.clock().now_ns()));
  exchange_->on_drained([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self && self->call_) self->call_->resume();
  });
  exchange_->start(head_for_client(head_, request_id_), head_.content_length);
}

/// Instead of an answer.
void Forward::refuse(int status, const std::string& message) {
  http::Response response = serve::error_response(replica_error(status, message));
  response.headers.push_back({"X-Request-Id", request_id_});
  exchange_->respond(std::move(response));
  finish(fmt::format("{}xx", status / 100));
}

/// The answer has begun and will not be complete, which the client has to see: by an event where
/// one fits (no length has been promised, no coding hides it), and by a connection that ends.
void Forward::break_off() {
  const bool takes_more = head_.content_length < 0 && head_.header("content-encoding").empty();
  if (is_stream_ && takes_more && events_.between_events()) {
    const serve::ApiError error = replica_error(502, "the replica's answer ended too early");
    exchange_->write("data: " + serve::error_json(error) + "\n\n");
  }
  exchange_->abort();
  finish("cut");
}

/// The request is no longer where it was.
void Forward::leave() {
  if (call_) std::exchange(call_, nullptr)->cancel();
  if (place_) router_.replicas().leave(*place_);
  place_.reset();
}

void Forward::finish(const std::string& outcome) {
  const auto self = shared_from_this();  // the router forgets it
  leave();
  router_.metrics().count_request(replica_name_, outcome,
                                  base::seconds_between(arrival_ns_, router_.clock().now_ns()));
  router_.forget(*this);
}

}  // namespace fourfold::route
