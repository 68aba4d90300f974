#include "http/client.h"

#include <fmt/format.h>

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <exception>
#include <future>
#include <optional>
#include <thread>
#include <utility>

namespace fourfold::http {

namespace asio = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;

namespace {

constexpr std::chrono::seconds kConnectTime(10);
/// Without a byte: a long prompt may take its time.
constexpr std::chrono::minutes kSilence(10);

}  // namespace

class Client::Loop {
 public:
  explicit Loop(Url url) : url_(std::move(url)), work_(asio::make_work_guard(io_)) {
    thread_ = std::thread([this] { io_.run(); });
  }
  ~Loop() {
    io_.stop();
    thread_.join();
  }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  void send(ClientRequest request, Handlers handlers) {
    const auto on_end = handlers.on_end;
    asio::co_spawn(io_, run(std::move(request), std::move(handlers)),
                   [on_end](const std::exception_ptr& thrown, const std::string& error) {
                     on_end(thrown ? what_of(thrown) : error);
                   });
  }

 private:
  struct Connection {
    explicit Connection(asio::io_context& io) : stream(io) {}
    beast::tcp_stream stream;
    beast::flat_buffer buffer;  ///< received and not parsed
  };
  using ConnectionPtr = std::unique_ptr<Connection>;

  /// What a handler threw, or a lack of memory.
  static std::string what_of(const std::exception_ptr& thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& exception) {
      return exception.what();
    }
  }

  asio::awaitable<std::string> run(ClientRequest request, Handlers handlers) {
    bool begun = false;
    std::string error;
    if (!idle_.empty()) {
      ConnectionPtr kept = std::move(idle_.back());
      idle_.pop_back();
      error = co_await exchange(std::move(kept), request, handlers, begun);
    }
    // The server may have closed a connection that was kept, before it saw the request.
    if (!begun) {
      auto fresh = std::make_unique<Connection>(io_);
      error = co_await connect(*fresh);
      if (error.empty()) error = co_await exchange(std::move(fresh), request, handlers, begun);
    }
    co_return error;
  }

  asio::awaitable<std::string> connect(Connection& connection) {
    error_code error;
    asio::ip::tcp::resolver resolver(io_);
    const auto found = co_await resolver.async_resolve(
        url_.host, std::to_string(url_.port), asio::redirect_error(asio::use_awaitable, error));
    if (!error) {
      connection.stream.expires_after(kConnectTime);
      co_await connection.stream.async_connect(found,
                                               asio::redirect_error(asio::use_awaitable, error));
    }
    if (error) co_return fmt::format("cannot reach {}: {}", url_.authority(), error.message());
    connection.stream.socket().set_option(asio::ip::tcp::no_delay(true), error);
    co_return std::string();
  }

  /// The error, if there is one. `begun`: a response has come, so nothing may be sent again.
  asio::awaitable<std::string> exchange(ConnectionPtr connection, const ClientRequest& request,
                                        const Handlers& handlers, bool& begun) {
    namespace wire = beast::http;
    const auto lost = [this](const error_code& error) {
      return fmt::format("the connection to {} was lost: {}", url_.authority(), error.message());
    };
    wire::request<wire::string_body> message;
    message.method_string(request.method);
    message.target(url_.path + request.path);
    message.set(wire::field::host, url_.authority());
    for (const Header& header : request.headers) message.set(header.name, header.value);
    if (!request.body.empty()) {
      message.set(wire::field::content_type, "application/json");
      message.body() = request.body;
    }
    message.prepare_payload();
    error_code error;
    connection->stream.expires_after(kSilence);
    co_await wire::async_write(connection->stream, message,
                               asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return lost(error);
    std::optional<wire::response_parser<wire::buffer_body>> reading;
    do {  // a server may first say that it is at work (1xx)
      reading.emplace();
      reading->body_limit(boost::none);
      co_await wire::async_read_header(connection->stream, connection->buffer, *reading,
                                       asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return lost(error);
      begun = true;
    } while (reading->get().result_int() < 200);
    wire::response_parser<wire::buffer_body>& parser = *reading;
    handlers.on_head(parser.get().result_int());
    std::array<char, 16384> bytes;
    while (!parser.is_done()) {
      parser.get().body().data = bytes.data();
      parser.get().body().size = bytes.size();
      connection->stream.expires_after(kSilence);
      co_await wire::async_read_some(connection->stream, connection->buffer, parser,
                                     asio::redirect_error(asio::use_awaitable, error));
      if (error == wire::error::need_buffer) error = {};
      const size_t count = bytes.size() - parser.get().body().size;
      if (count > 0) handlers.on_body({bytes.data(), count});
      if (error) co_return lost(error);
    }
    if (parser.keep_alive() && connection->buffer.size() == 0)
      idle_.push_back(std::move(connection));
    co_return std::string();
  }

  Url url_;
  asio::io_context io_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::vector<ConnectionPtr> idle_;
  std::thread thread_;
};

Client::Client(Url url) : loop_(std::make_unique<Loop>(std::move(url))) {}

Client::~Client() = default;

void Client::send(ClientRequest request, Handlers handlers) {
  loop_->send(std::move(request), std::move(handlers));
}

base::Result<Client::Reply> Client::fetch(ClientRequest request) {
  auto reply = std::make_shared<Reply>();
  auto done = std::make_shared<std::promise<std::string>>();
  std::future<std::string> error = done->get_future();
  send(std::move(request), {.on_head = [reply](int status) { reply->status = status; },
                            .on_body = [reply](std::string_view bytes) { reply->body += bytes; },
                            .on_end = [done](const std::string& why) { done->set_value(why); }});
  if (const std::string why = error.get(); !why.empty()) return base::fail("{}", why);
  return std::move(*reply);
}

}  // namespace fourfold::http
