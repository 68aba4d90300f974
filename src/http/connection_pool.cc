#include "http/connection_pool.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <deque>
#include <exception>
#include <optional>
#include <utility>

#include "base/clock.h"

namespace fourfold::http {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

/// Servers close connections that nobody uses; some of them after 5 s.
constexpr int64_t kKeptNs = 4'000'000'000;

/// What this machine lacks says nothing about the server.
bool is_shortage(const error_code& error) {
  return error == boost::system::errc::too_many_files_open ||
         error == boost::system::errc::too_many_files_open_in_system ||
         error == boost::system::errc::no_buffer_space ||
         error == boost::system::errc::not_enough_memory ||
         error == boost::system::errc::address_not_available;
}

/// A host that vanishes says nothing: after 10 s of silence it is asked, and again every 5 s, and
/// the connection is lost when three are not answered.
void notice_lost_host(tcp::socket& socket) {
  error_code ignored;
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  const int fd = socket.native_handle();
  for (const auto& [option, value] :
       {std::pair{TCP_KEEPIDLE, 10}, {TCP_KEEPINTVL, 5}, {TCP_KEEPCNT, 3}}) {
    setsockopt(fd, IPPROTO_TCP, option, &value, sizeof value);
  }
}

/// What is sent in front of the body.
std::string head_text(const ClientRequest& request, const Url& url) {
  std::string out = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}\r\n", request.method, url.path,
                                request.path, url.authority());
  bool has_type = false;
  for (const Header& header : request.headers) {
    has_type = has_type || lower_case(header.name) == "content-type";
    out += header.name + ": " + header.value + "\r\n";
  }
  if (!request.body.empty() && !has_type) out += "Content-Type: application/json\r\n";
  const bool may_have_body = request.method != "GET" && request.method != "HEAD";
  if (!request.body.empty() || may_have_body) {
    out += fmt::format("Content-Length: {}\r\n", request.body.size());
  }
  return out + "\r\n";
}

}  // namespace

/// Shared with the calls, which may outlive the pool.
struct ConnectionPool::Idle {
  struct Connection {
    std::unique_ptr<tcp::socket> socket;
    int64_t since_ns = 0;
  };

  Idle(asio::any_io_executor on, Url of) : executor(std::move(on)), url(std::move(of)) {}

  /// One that the server has not closed yet, the last used first; null: there is none.
  std::unique_ptr<tcp::socket> take() {
    const int64_t now_ns = clock.now_ns();
    while (!connections.empty() && now_ns - connections.front().since_ns > kKeptNs) {
      connections.pop_front();
    }
    while (!connections.empty()) {
      std::unique_ptr<tcp::socket> out = std::move(connections.back().socket);
      connections.pop_back();
      char byte = 0;
      error_code error;
      out->receive(asio::buffer(&byte, 1), tcp::socket::message_peek, error);
      if (error == asio::error::would_block) return out;
    }
    return nullptr;
  }

  void keep(std::unique_ptr<tcp::socket> socket) {
    if (closed) return;
    if (connections.size() >= kMostKept) connections.pop_front();
    connections.push_back({std::move(socket), clock.now_ns()});
  }

  asio::any_io_executor executor;
  Url url;
  base::SteadyClock clock;
  bool closed = false;  ///< the pool is gone: nothing is kept any more
  std::deque<Connection> connections;
  std::array<char, 64 << 10> scratch{};  ///< what a read has just given
};

class ConnectionPool::PooledCall final : public Call,
                                         public std::enable_shared_from_this<PooledCall> {
 public:
  PooledCall(std::shared_ptr<Idle> idle, ClientRequest request, CallHandlers handlers)
      : idle_(std::move(idle)),
        request_(std::move(request)),
        handlers_(std::make_shared<const CallHandlers>(std::move(handlers))),
        timer_(idle_->executor),
        resumed_(idle_->executor, asio::steady_timer::time_point::max()) {}

  void begin() {
    begin_ns_ = idle_->clock.now_ns();
    progress_ns_ = begin_ns_;
    connect_begin_ns_ = begin_ns_;
    wait_for_limit();
    asio::co_spawn(idle_->executor, run(shared_from_this()),
                   [self = shared_from_this()](const std::exception_ptr& thrown) {
                     if (thrown) self->fail(CallError::Kind::kLost, what_of(thrown));
                   });
  }

  void cancel() override {
    if (std::exchange(done_, true)) return;
    handlers_ = nullptr;
    timer_.cancel();
    resumed_.cancel();
    error_code ignored;
    if (socket_) socket_->close(ignored);
  }

  void pause() override { paused_ = true; }

  void resume() override {
    if (!std::exchange(paused_, false)) return;
    progress_ns_ = idle_->clock.now_ns();
    resumed_.cancel();
  }

 private:
  static std::string what_of(const std::exception_ptr& thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& exception) {
      return exception.what();
    }
  }

  void end(const CallError* error) {
    if (done_) return;
    const auto handlers = handlers_;
    cancel();
    handlers->on_end(error);
  }

  void fail(CallError::Kind kind, std::string message) {
    const CallError error{.kind = kind, .message = std::move(message)};
    end(&error);
  }

  std::string lost(const std::string& why) const {
    return fmt::format("the connection to {} was lost: {}", idle_->url.authority(), why);
  }

  /// How long from now until a limit may have been reached.
  int64_t next_limit_ns() const {
    const int64_t now_ns = idle_->clock.now_ns();
    int64_t out = progress_ns_ + request_.limits.silence_ns - now_ns;
    if (request_.limits.total_ns > 0) {
      out = std::min(out, begin_ns_ + request_.limits.total_ns - now_ns);
    }
    return out;
  }

  int64_t connect_left_ns() const {
    return connect_begin_ns_ + request_.limits.connect_ns - idle_->clock.now_ns();
  }

  /// One timer for all limits: bytes that come only move progress_ns_.
  void wait_for_limit() {
    const int64_t delay_ns =
        connected_ ? next_limit_ns() : std::min(next_limit_ns(), connect_left_ns());
    timer_.expires_after(std::chrono::nanoseconds(delay_ns));
    timer_.async_wait([weak = weak_from_this()](error_code cancelled) {
      const auto self = weak.lock();
      if (self && !cancelled && !self->done_) self->check_limits();
    });
  }

  void check_limits() {
    if (!connected_ && connect_left_ns() <= 0) {
      return fail(CallError::Kind::kUnreachable,
                  fmt::format("cannot reach {}: no connection in time", idle_->url.authority()));
    }
    if (paused_) progress_ns_ = idle_->clock.now_ns();
    if (next_limit_ns() <= 0) {
      return fail(CallError::Kind::kTimeout,
                  fmt::format("{} did not answer in time", idle_->url.authority()));
    }
    wait_for_limit();
  }

  /// `self` keeps the call until its end.
  asio::awaitable<void> run([[maybe_unused]] std::shared_ptr<PooledCall> self) {
    if (request_.repeatable) socket_ = idle_->take();
    const bool kept = socket_ != nullptr;
    connected_ = kept;
    std::string error;
    if (kept) error = co_await exchange();
    // The server may have closed a connection that was kept before it saw the request. Later, it is
    // the request that has been lost.
    const bool closed_before =
        unsent_ || idle_->clock.now_ns() - begin_ns_ < request_.limits.resend_ns;
    if (!kept || (!error.empty() && !done_ && !reader_->started() && closed_before)) {
      error = co_await connect_and_exchange();
    }
    if (done_) co_return;
    if (!error.empty()) {
      fail(connected_ ? CallError::Kind::kLost : no_connection_, error);
      co_return;
    }
    if (reader_->keep_alive()) idle_->keep(std::move(socket_));
    end(nullptr);
  }

  asio::awaitable<std::string> connect_and_exchange() {
    connected_ = false;
    connect_begin_ns_ = idle_->clock.now_ns();
    wait_for_limit();
    socket_ = std::make_unique<tcp::socket>(idle_->executor);
    error_code error;
    const auto address = asio::ip::make_address(idle_->url.host, error);
    if (!error) {
      co_await socket_->async_connect({address, idle_->url.port},
                                      asio::redirect_error(asio::use_awaitable, error));
    } else {
      tcp::resolver resolver(idle_->executor);
      const auto found =
          co_await resolver.async_resolve(idle_->url.host, std::to_string(idle_->url.port),
                                          asio::redirect_error(asio::use_awaitable, error));
      if (done_) co_return std::string();
      if (!error) {
        co_await asio::async_connect(*socket_, found,
                                     asio::redirect_error(asio::use_awaitable, error));
      }
    }
    if (is_shortage(error)) {
      no_connection_ = CallError::Kind::kShortage;
      idle_->connections.clear();
    }
    if (error) {
      co_return fmt::format("cannot reach {}: {}", idle_->url.authority(), error.message());
    }
    connected_ = true;
    socket_->set_option(tcp::no_delay(true), error);
    notice_lost_host(*socket_);
    socket_->non_blocking(true, error);
    co_return co_await exchange();
  }

  /// The error, or "".
  asio::awaitable<std::string> exchange() {
    reader_.emplace(request_.method == "HEAD");
    const std::string head = head_text(request_, idle_->url);
    const std::array<asio::const_buffer, 2> message = {asio::buffer(head),
                                                       asio::buffer(request_.body)};
    error_code error;
    co_await asio::async_write(*socket_, message, asio::redirect_error(asio::use_awaitable, error));
    // A server may answer, and close, before it has read a body that it does not want.
    const error_code unsent = error;
    unsent_ = static_cast<bool>(unsent);
    progress_ns_ = idle_->clock.now_ns();
    while (!done_ && !reader_->done()) {
      if (paused_) {
        co_await resumed_.async_wait(asio::redirect_error(asio::use_awaitable, error));
        continue;
      }
      co_await socket_->async_wait(tcp::socket::wait_read,
                                   asio::redirect_error(asio::use_awaitable, error));
      if (done_) break;
      const size_t count = socket_->read_some(asio::buffer(idle_->scratch), error);
      if (error == asio::error::would_block) continue;
      if (error == asio::error::eof) {
        if (const base::Status end = reader_->end(); !end.ok()) {
          co_return lost(end.error().message);
        }
        break;
      }
      if (error) co_return lost((unsent ? unsent : error).message());
      progress_ns_ = idle_->clock.now_ns();
      const base::Status read = take({idle_->scratch.data(), count});
      if (!read.ok()) co_return lost(read.error().message);
    }
    co_return std::string();
  }

  base::Status take(std::string_view bytes) {
    const auto handlers = handlers_;  // one of them may cancel the call
    return reader_->push(
        bytes,
        [&](const ResponseHead& head) {
          if (!done_) handlers->on_head(head);
        },
        [&](std::string_view piece) {
          if (!done_) handlers->on_body(piece);
        });
  }

  std::shared_ptr<Idle> idle_;
  ClientRequest request_;
  std::shared_ptr<const CallHandlers> handlers_;
  std::unique_ptr<tcp::socket> socket_;
  std::optional<ResponseReader> reader_;
  asio::steady_timer timer_;
  asio::steady_timer resumed_;  ///< never expires; cancelled when the call goes on
  int64_t begin_ns_ = 0;
  int64_t connect_begin_ns_ = 0;
  int64_t progress_ns_ = 0;  ///< the server last took the request or gave a byte
  CallError::Kind no_connection_ = CallError::Kind::kUnreachable;  ///< where not connected_
  bool connected_ = false;
  bool unsent_ = false;  ///< sending has failed
  bool paused_ = false;
  bool done_ = false;
};

ConnectionPool::ConnectionPool(const asio::any_io_executor& executor, Url url)
    : idle_(std::make_shared<Idle>(executor, std::move(url))) {}

ConnectionPool::~ConnectionPool() {
  idle_->closed = true;
  idle_->connections.clear();
}

std::shared_ptr<Call> ConnectionPool::send(ClientRequest request, CallHandlers handlers) {
  auto call = std::make_shared<PooledCall>(idle_, std::move(request), std::move(handlers));
  call->begin();
  return call;
}

}  // namespace fourfold::http
