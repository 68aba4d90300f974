#include "http/server.h"

#include <fmt/format.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <deque>
#include <exception>
#include <unordered_set>
#include <utility>

#include "base/log.h"
#include "http/connection.h"

namespace fourfold::http {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

base::Result<tcp::resolver::results_type> resolve(asio::io_context& context,
                                                  const std::string& host, uint16_t port) {
  error_code error;
  tcp::resolver resolver(context);
  auto found = resolver.resolve(host, std::to_string(port),
                                tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (error || found.empty()) return base::fail("--host {}: {}", host, error.message());
  return found;
}

class AsioServer final : public Server {
 public:
  AsioServer(const ServerOptions& options, const base::Clock& clock, Handler handler)
      : options_(options),
        clock_(clock),
        handler_(std::move(handler)),
        context_{.options = options_, .clock = clock_, .handler = handler_} {}

  base::Status open() {
    FF_ASSIGN(const auto endpoints, resolve(io_, options_.host, options_.port));
    const tcp::endpoint endpoint = endpoints.begin()->endpoint();
    error_code error;
    const auto attempt = [&](auto step) {
      if (!error) step();
    };
    attempt([&] { acceptor_.open(endpoint.protocol(), error); });
    attempt([&] { acceptor_.set_option(tcp::acceptor::reuse_address(true), error); });
    attempt([&] { acceptor_.bind(endpoint, error); });
    attempt([&] { acceptor_.listen(asio::socket_base::max_listen_connections, error); });
    if (error) {
      return base::fail("cannot listen on {} port {}: {}; choose another --host or --port",
                        options_.host, options_.port, error.message());
    }
    endpoint_ = acceptor_.local_endpoint();
    asio::co_spawn(io_, accept(), log_thrown);
    asio::co_spawn(io_, sweep_often(), log_thrown);
    return {};
  }

  uint16_t port() const override { return endpoint_.port(); }

  std::string url() const override {
    const asio::ip::address address = endpoint_.address();
    std::string host = address.to_string();
    if (address.is_v6()) host = "[" + host + "]";
    if (address.is_unspecified()) host = "localhost";
    return fmt::format("http://{}:{}", host, port());
  }

  void run() override {
    while (true) {
      try {
        io_.run();
        return;
      } catch (const std::exception& exception) {  // of posted work: a lack of memory
        spdlog::error("the server goes on after: {}", exception.what());
      }
    }
  }

  asio::any_io_executor executor() override { return io_.get_executor(); }

  void post(std::function<void()> work) override { asio::post(io_, std::move(work)); }

  void on_signal(int signal, std::function<void()> callback) override {
    asio::signal_set& set = signals_.emplace_back(io_);
    set.add(signal);
    wait_for_signal(set, std::move(callback));
  }

  void after(int64_t delay_ns, std::function<void()> work) override {
    if (ended_) return;
    asio::steady_timer& timer = timers_.emplace_back(io_, std::chrono::nanoseconds(delay_ns));
    timer.async_wait([work = std::move(work)](error_code error) {
      if (!error) work();
    });
  }

  void drain() override {
    context_.draining = true;
    error_code ignored;
    acceptor_.close(ignored);
    for (const auto& connection : connections_) connection->close_if_idle();
    end_if_empty();
  }

  void stop() override {
    drain();
    for (const auto& connection : connections_) connection->close();
  }

  void sweep() override {
    const int64_t now_ns = clock_.now_ns();
    for (const auto& connection : connections_) connection->check(now_ns);
    place_.cancel();
  }

  int64_t connections() const override { return std::ssize(connections_); }

 private:
  static void log_thrown(const std::exception_ptr& thrown) {
    if (!thrown) return;
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& exception) {
      spdlog::error("a connection ended: {}", exception.what());
    }
  }

  asio::awaitable<void> accept() {
    while (acceptor_.is_open()) {
      error_code error;
      if (connections() < options_.max_connections) {
        tcp::socket socket =
            co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, error));
        if (!error) {
          serve(std::move(socket));
          continue;
        }
      }
      // No place, or no descriptor left: until a connection ends, or for a moment.
      if (!acceptor_.is_open()) co_return;
      co_await place_.async_wait(asio::redirect_error(asio::use_awaitable, error));
    }
  }

  void serve(tcp::socket socket) {
    const auto connection = std::make_shared<Connection>(std::move(socket), context_);
    connections_.insert(connection);
    asio::co_spawn(io_, connection->run(), [this, connection](const std::exception_ptr& exception) {
      connections_.erase(connection);
      place_.cancel();
      if (context_.draining) end_if_empty();
      log_thrown(exception);
    });
  }

  asio::awaitable<void> sweep_often() {
    while (!ended_) {
      error_code cancelled;
      tick_.expires_after(std::chrono::nanoseconds(kSweepNs));
      co_await tick_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
      sweep();
    }
  }

  void wait_for_signal(asio::signal_set& set, std::function<void()> callback) {
    set.async_wait([this, &set, callback = std::move(callback)](error_code error, int) mutable {
      if (error) return;
      callback();
      if (!ended_) wait_for_signal(set, std::move(callback));
    });
  }

  /// Nothing keeps run() from returning any longer.
  void end_if_empty() {
    if (!connections_.empty()) return;
    ended_ = true;
    tick_.cancel();
    place_.cancel();
    for (asio::steady_timer& timer : timers_) timer.cancel();
    for (asio::signal_set& set : signals_) {
      error_code ignored;
      set.cancel(ignored);
    }
  }

  ServerOptions options_;
  const base::Clock& clock_;
  Handler handler_;
  ConnectionContext context_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_{io_};
  tcp::endpoint endpoint_;
  asio::steady_timer tick_{io_};
  asio::steady_timer place_{io_, asio::steady_timer::time_point::max()};  ///< for a connection
  std::deque<asio::steady_timer> timers_;                                 ///< of after()
  std::deque<asio::signal_set> signals_;
  std::unordered_set<std::shared_ptr<Connection>> connections_;
  bool ended_ = false;
};

}  // namespace

base::Result<std::unique_ptr<Server>> Server::listen(const ServerOptions& options,
                                                     const base::Clock& clock, Handler handler) {
  auto server = std::make_unique<AsioServer>(options, clock, std::move(handler));
  FF_TRY(server->open());
  return std::unique_ptr<Server>(std::move(server));
}

base::Result<bool> is_loopback(const std::string& host) {
  asio::io_context context;
  FF_ASSIGN(const auto endpoints, resolve(context, host, 0));
  return std::all_of(endpoints.begin(), endpoints.end(),
                     [](const auto& entry) { return entry.endpoint().address().is_loopback(); });
}

}  // namespace fourfold::http
