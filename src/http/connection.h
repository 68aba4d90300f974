#pragma once

#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "http/exchange.h"
#include "http/request_reader.h"
#include "http/server.h"

namespace fourfold::http {

/// What all connections of a server share.
struct ConnectionContext {
  const ServerOptions& options;
  const base::Clock& clock;
  const Server::Handler& handler;
  bool draining = false;
  int64_t body_bytes = 0;                ///< of all connections' requests
  std::array<char, 64 << 10> scratch{};  ///< what a read has just given
};

/// One answer on its way to the client.
class Answer final : public Exchange {
 public:
  /// `headers` are added to those of the answer.
  Answer(const boost::asio::any_io_executor& executor, Request request, bool keep_alive,
         int64_t pending_limit, std::vector<Header> headers);

  const Request& request() const override { return request_; }
  void respond(Response response) override;
  using Exchange::start;
  void start(Response head, int64_t length) override;
  void write(std::string_view bytes) override;
  void finish() override;
  void abort() override;
  int64_t pending_bytes() const override { return std::ssize(pending_); }
  void on_drained(std::function<void()> callback) override { on_drained_ = std::move(callback); }
  void on_gone(std::function<void()> callback) override;

  /// The connection's side. Bytes to send, perhaps none; moved out.
  std::string take_pending();
  bool has_pending() const { return !pending_.empty(); }
  bool started() const { return started_; }
  bool finished() const { return finished_; }
  /// The answer must not be completed: its reader has left more bytes than it may, or its writer
  /// gave it up or wrote more than it had announced.
  bool broken() const { return broken_; }
  /// Called once the reader has left, or the writer has written, more than it may.
  void on_overflow(std::function<void()> callback) { on_overflow_ = std::move(callback); }
  /// The connection closes after this answer.
  bool closes() const { return !keep_alive_; }
  /// Returns when there is something to send, or the answer is finished.
  boost::asio::awaitable<void> wait();
  void gone();

 private:
  void add_head(const Response& head, int64_t content_length);
  void give_up();

  Request request_;
  std::vector<Header> headers_;
  boost::asio::steady_timer changed_;  ///< never expires; cancelled when something has changed
  std::string pending_;
  std::function<void()> on_gone_;
  std::function<void()> on_drained_;
  std::function<void()> on_overflow_;
  int64_t pending_limit_;
  int64_t remaining_ = -1;  ///< bytes of a body of known length that are still to come
  bool keep_alive_;
  bool chunked_ = false;
  bool started_ = false;
  bool finished_ = false;
  bool broken_ = false;
  bool gone_ = false;
};

/// One accepted connection: request after request.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(boost::asio::ip::tcp::socket socket, ConnectionContext& context);

  ~Connection() { count_body(0); }

  /// Serves requests until the connection ends.
  boost::asio::awaitable<void> run();

  /// Cuts the client if it is too slow.
  void check(int64_t now_ns);
  void close_if_idle();
  void close();

 private:
  enum class Phase { kIdle, kHead, kBody, kAnswer, kLinger };

  boost::asio::awaitable<bool> read_request();
  boost::asio::awaitable<bool> answer(Request request);
  void handle(const std::shared_ptr<Answer>& answer);
  boost::asio::awaitable<void> refuse(Response response);
  std::optional<Response> check_body();
  void count_body(int64_t bytes);
  std::vector<Header> answer_headers(const Request& head) const;
  boost::asio::awaitable<void> send(Answer& answer);
  boost::asio::awaitable<void> write(std::string bytes);
  boost::asio::awaitable<bool> read_more();
  boost::asio::awaitable<void> watch();
  boost::asio::awaitable<void> linger();
  void enter(Phase phase);

  boost::asio::ip::tcp::socket socket_;
  ConnectionContext& context_;
  RequestReader reader_;
  std::string received_;    ///< bytes that the reader has not taken yet
  int64_t body_bytes_ = 0;  ///< of this request, as counted in the context
  Phase phase_ = Phase::kIdle;
  int64_t since_ns_ = 0;     ///< of the phase
  int64_t progress_ns_ = 0;  ///< the client last took a byte, or there was none to take
  bool writing_ = false;
  bool too_slow_ = false;  ///< its request is not waited for any longer
};

}  // namespace fourfold::http
