#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "http/connection_pool.h"
#include "route/fetch.h"

namespace fourfold::route {

struct ProbeOptions {
  int64_t interval_ns = 1'000'000'000;
  int64_t timeout_ns = 5'000'000'000;  ///< of each of a probe's requests
};

/// Asks a replica again and again for /health, and where that is well for /metrics and /v1/models.
/// Used on one thread.
class Prober : public std::enable_shared_from_this<Prober> {
 public:
  struct Handlers {
    std::function<void(const Fetched& health)> on_health;
    std::function<void(const std::string& page)> on_metrics;  ///< where there is such a page
    std::function<void(const std::string& body)> on_models;   ///< where there is such a list
    std::function<void()> on_round;                           ///< a probe is over
  };

  /// `headers`: what to send, asked anew each time. `pool` outlives the prober.
  Prober(const boost::asio::any_io_executor& executor, http::ConnectionPool& pool,
         const ProbeOptions& options, std::function<std::vector<http::Header>()> headers,
         Handlers handlers);

  void begin() { ask_health(); }
  /// No handler is called after it.
  void stop();

 private:
  void ask(const std::string& path, std::function<void(const Fetched&)> take);
  void ask_health();
  void ask_metrics();
  void ask_models();
  void end_round();

  http::ConnectionPool& pool_;
  ProbeOptions options_;
  std::function<std::vector<http::Header>()> headers_;
  Handlers handlers_;
  boost::asio::steady_timer timer_;
  std::shared_ptr<http::Call> call_;
  bool stopped_ = false;
};

/// True if a server that answers so can serve. One without /health answers 404.
bool is_well(const Fetched& health);

}  // namespace fourfold::route
