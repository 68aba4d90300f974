#include "route/prober.h"

#include <chrono>
#include <utility>

namespace fourfold::route {

Prober::Prober(const boost::asio::any_io_executor& executor, http::ConnectionPool& pool,
               const ProbeOptions& options, std::function<std::vector<http::Header>()> headers,
               Handlers handlers)
    : pool_(pool),
      options_(options),
      headers_(std::move(headers)),
      handlers_(std::move(handlers)),
      timer_(executor) {}

void Prober::stop() {
  stopped_ = true;
  timer_.cancel();
  if (call_) call_->cancel();
}

void Prober::ask(const std::string& path, std::function<void(const Fetched&)> take) {
  http::ClientRequest request{.path = path, .headers = headers_(), .body = {}};
  request.limits = {.connect_ns = options_.timeout_ns,
                    .silence_ns = options_.timeout_ns,
                    .total_ns = options_.timeout_ns};
  call_ = fetch(pool_, std::move(request),
                [weak = weak_from_this(), take = std::move(take)](const Fetched& fetched) {
                  const auto self = weak.lock();
                  if (self && !self->stopped_) take(fetched);
                });
}

void Prober::ask_health() {
  ask("/health", [this](const Fetched& health) {
    handlers_.on_health(health);
    if (stopped_) return;
    if (is_well(health)) {
      ask_metrics();
    } else {
      end_round();
    }
  });
}

void Prober::ask_metrics() {
  ask("/metrics", [this](const Fetched& page) {
    if (page.ok()) handlers_.on_metrics(page.body);
    ask_models();
  });
}

void Prober::ask_models() {
  ask("/v1/models", [this](const Fetched& models) {
    if (models.ok()) handlers_.on_models(models.body);
    end_round();
  });
}

void Prober::end_round() {
  handlers_.on_round();
  if (stopped_) return;
  timer_.expires_after(std::chrono::nanoseconds(options_.interval_ns));
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& cancelled) {
    const auto self = weak.lock();
    if (self && !cancelled && !self->stopped_) self->ask_health();
  });
}

bool is_well(const Fetched& health) { return !health.error && health.status < 500; }

}  // namespace fourfold::route
