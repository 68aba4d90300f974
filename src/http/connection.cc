#include "http/connection.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <ctime>
#include <exception>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace fourfold::http {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

/// Of further requests that a client may send before it has its answer.
constexpr size_t kPipelinedBytes = 64 << 10;

/// RFC 9110: these never have one, and so no length.
bool may_have_body(int status) { return status != 204 && status != 304; }

Response response_to(const Refusal& refusal) {
  return {.status = refusal.status,
          .content_type = "text/plain; charset=utf-8",
          .body = refusal.message + "\n",
          .headers = {}};
}

std::string date() {
  return fmt::format("{:%a, %d %b %Y %H:%M:%S} GMT", fmt::gmtime(std::time({})));
}

}  // namespace

Answer::Answer(const asio::any_io_executor& executor, Request request, bool keep_alive,
               int64_t pending_limit, std::vector<Header> headers)
    : request_(std::move(request)),
      headers_(std::move(headers)),
      changed_(executor, asio::steady_timer::time_point::max()),
      pending_limit_(pending_limit),
      keep_alive_(keep_alive) {}

void Answer::respond(Response response) {
  CHECK(!started_, "a second answer to {}", request_.path);
  add_head(response, std::ssize(response.body));
  if (request_.method != "HEAD") pending_ += response.body;
  finished_ = true;
  changed_.cancel();
}

void Answer::start(Response head, int64_t length) {
  CHECK(!started_ && head.body.empty(), "a second answer to {}", request_.path);
  remaining_ = may_have_body(head.status) ? length : -1;
  chunked_ = length < 0 && may_have_body(head.status) && request_.version_minor > 0;
  // Without chunks only the end of the connection tells the end of the body.
  if (length < 0 && !chunked_ && may_have_body(head.status)) keep_alive_ = false;
  add_head(head, length);
  changed_.cancel();
}

void Answer::write(std::string_view bytes) {
  CHECK(started_ && !finished_, "no answer to {} is under way", request_.path);
  if (gone_ || broken_ || bytes.empty() || request_.method == "HEAD") return;
  if (remaining_ >= 0) {
    if (std::cmp_greater(bytes.size(), remaining_)) {
      spdlog::error("an answer is longer than it was to be");
      return give_up();
    }
    remaining_ -= std::ssize(bytes);
  }
  if (chunked_) pending_ += fmt::format("{:x}\r\n", bytes.size());
  pending_ += bytes;
  if (chunked_) pending_ += "\r\n";
  if (pending_bytes() > pending_limit_) give_up();
  changed_.cancel();
}

void Answer::give_up() {
  broken_ = true;
  if (on_overflow_) on_overflow_();
}

void Answer::finish() {
  CHECK(started_ && !finished_, "no answer to {} is under way", request_.path);
  if (remaining_ > 0 && request_.method != "HEAD") return abort();
  if (chunked_ && request_.method != "HEAD") pending_ += "0\r\n\r\n";
  finished_ = true;
  changed_.cancel();
}

void Answer::abort() {
  CHECK(started_ && !finished_, "no answer to {} is under way", request_.path);
  broken_ = true;
  finished_ = true;
  changed_.cancel();
}

std::string Answer::take_pending() {
  std::string out = std::exchange(pending_, {});
  if (on_drained_) on_drained_();
  return out;
}

void Answer::on_gone(std::function<void()> callback) {
  if (gone_) {
    callback();
  } else {
    on_gone_ = std::move(callback);
  }
}

void Answer::gone() {
  gone_ = true;
  pending_.clear();
  on_drained_ = nullptr;
  if (const auto callback = std::exchange(on_gone_, nullptr)) callback();
}

asio::awaitable<void> Answer::wait() {
  while (pending_.empty() && !finished_) {
    error_code cancelled;  // how it is woken
    co_await changed_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
  }
}

/// `content_length`: -1: it is not known.
void Answer::add_head(const Response& head, int64_t content_length) {
  started_ = true;
  if (gone_) return;
  pending_ += fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\n", head.status, reason_phrase(head.status),
                          date());
  if (!head.content_type.empty()) pending_ += "Content-Type: " + head.content_type + "\r\n";
  if (content_length >= 0 && may_have_body(head.status)) {
    pending_ += fmt::format("Content-Length: {}\r\n", content_length);
  } else if (chunked_) {
    pending_ += "Transfer-Encoding: chunked\r\n";
  }
  if (!keep_alive_) {
    pending_ += "Connection: close\r\n";
  } else if (request_.version_minor == 0) {
    pending_ += "Connection: keep-alive\r\n";
  }
  const auto add = [this](const Header& header) {
    pending_ += header.name + ": " + header.value + "\r\n";
  };
  std::for_each(headers_.begin(), headers_.end(), add);
  std::for_each(head.headers.begin(), head.headers.end(), add);
  pending_ += "\r\n";
}

Connection::Connection(asio::ip::tcp::socket socket, ConnectionContext& context)
    : socket_(std::move(socket)), context_(context), reader_(context.options.limits) {
  error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.non_blocking(true, ignored);
  enter(Phase::kIdle);
}

asio::awaitable<void> Connection::run() {
  const std::shared_ptr<Connection> self = shared_from_this();
  while (co_await read_request()) {
    const bool goes_on = co_await answer(reader_.take());
    count_body(0);
    if (!goes_on) break;
  }
  close();
}

/// False if the connection ends instead; a request that is refused has its answer by then.
asio::awaitable<bool> Connection::read_request() {
  enter(Phase::kIdle);
  bool told_to_continue = false;
  while (true) {
    const size_t taken = reader_.push(received_);
    received_.erase(0, taken);
    if (reader_.state() == RequestReader::State::kComplete) co_return true;
    if (reader_.state() == RequestReader::State::kRefused) {
      co_await refuse(response_to(reader_.refusal()));
      co_return false;
    }
    if (phase_ == Phase::kIdle && reader_.started()) enter(Phase::kHead);
    if (reader_.state() == RequestReader::State::kBody) {
      if (std::optional<Response> refusal = check_body()) {
        co_await refuse(std::move(*refusal));
        co_return false;
      }
      if (phase_ == Phase::kHead) enter(Phase::kBody);
    }
    if (reader_.expects_continue() && reader_.body_bytes() == 0 && !told_to_continue) {
      told_to_continue = true;
      co_await write("HTTP/1.1 100 Continue\r\n\r\n");
    }
    if (phase_ == Phase::kIdle && context_.draining) co_return false;
    if (!co_await read_more()) break;
  }
  if (too_slow_) {
    // Named: g++ 12 destroys a braced temporary of a co_await twice.
    Response refusal = response_to({.status = 408, .message = "the request came too slowly"});
    co_await refuse(std::move(refusal));
  }
  co_return false;
}

/// Appends to received_; false at the connection's end. A connection that waits has no buffer.
asio::awaitable<bool> Connection::read_more() {
  while (true) {
    error_code error;
    co_await socket_.async_wait(asio::ip::tcp::socket::wait_read,
                                asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return false;
    const size_t count = socket_.read_some(asio::buffer(context_.scratch), error);
    received_.append(context_.scratch.data(), count);
    if (error != asio::error::would_block) co_return !error;
  }
}

/// True if another request may follow.
asio::awaitable<bool> Connection::answer(Request request) {
  using namespace asio::experimental::awaitable_operators;
  enter(Phase::kAnswer);
  const bool keep_alive = request.keep_alive && !context_.draining;
  std::vector<Header> headers = answer_headers(request);
  const auto answer =
      std::make_shared<Answer>(socket_.get_executor(), std::move(request), keep_alive,
                               context_.options.timeouts.pending_bytes, std::move(headers));
  answer->on_overflow([this] { close(); });
  handle(answer);
  co_await (watch() || send(*answer));
  const bool complete = answer->finished() && !answer->has_pending() && socket_.is_open() &&
                        !writing_ && !answer->broken();
  if (!complete) {
    answer->gone();
    co_return false;
  }
  if (answer->closes()) co_await linger();
  co_return !answer->closes();
}

/// A handler that throws, as for a lack of memory, takes nobody else down.
void Connection::handle(const std::shared_ptr<Answer>& answer) {
  try {
    context_.handler(answer);
  } catch (const std::exception& exception) {
    spdlog::error("a request could not be handled: {}", exception.what());
    if (!answer->started()) answer->respond({.status = 500, .body = {}, .headers = {}});
  }
}

/// Returns when the client has gone away.
asio::awaitable<void> Connection::watch() {
  while (received_.size() < kPipelinedBytes) {
    if (!co_await read_more()) co_return;
  }
  // Too much to keep: from here on only writing notices that the client has gone.
  asio::steady_timer never(socket_.get_executor(), asio::steady_timer::time_point::max());
  co_await never.async_wait(asio::use_awaitable);
}

/// Returns when the whole answer is sent, or cannot be.
asio::awaitable<void> Connection::send(Answer& answer) {
  while (true) {
    co_await answer.wait();
    if (!answer.has_pending()) co_return;
    co_await write(answer.take_pending());
    if (writing_) co_return;
  }
}

/// writing_ stays true if the bytes could not be sent.
asio::awaitable<void> Connection::write(std::string bytes) {
  writing_ = true;
  progress_ns_ = context_.clock.now_ns();
  std::string_view rest = bytes;
  while (!rest.empty()) {
    error_code error;
    const size_t count = co_await socket_.async_write_some(
        asio::buffer(rest), asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return;
    progress_ns_ = context_.clock.now_ns();
    rest.remove_prefix(count);
  }
  writing_ = false;
}

/// An answer instead of a body that need not, or cannot, be read.
std::optional<Response> Connection::check_body() {
  count_body(reader_.body_bytes());
  if (context_.body_bytes > context_.options.all_body_bytes) {
    return response_to({.status = 503, .message = "too many requests at once have large bodies"});
  }
  if (phase_ != Phase::kHead || !context_.options.check_head) return std::nullopt;
  return context_.options.check_head(reader_.head());
}

void Connection::count_body(int64_t bytes) {
  context_.body_bytes += bytes - std::exchange(body_bytes_, bytes);
}

std::vector<Header> Connection::answer_headers(const Request& head) const {
  if (!context_.options.answer_headers) return {};
  return context_.options.answer_headers(head);
}

asio::awaitable<void> Connection::refuse(Response response) {
  enter(Phase::kAnswer);
  std::vector<Header> headers = answer_headers(reader_.head());
  reader_ = RequestReader(context_.options.limits);  // with what it has of the body
  count_body(0);
  Answer answer(socket_.get_executor(), Request(), /*keep_alive=*/false, 0, std::move(headers));
  answer.respond(std::move(response));
  co_await write(answer.take_pending());
  if (!writing_) co_await linger();
}

/// Closing a socket with unread bytes would make the client's system forget the answer. So what the
/// client still sends is taken, until it closes its side or linger_ns is over.
asio::awaitable<void> Connection::linger() {
  enter(Phase::kLinger);
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  do {
    received_.clear();
  } while (co_await read_more());
}

void Connection::enter(Phase phase) {
  phase_ = phase;
  since_ns_ = context_.clock.now_ns();
}

void Connection::check(int64_t now_ns) {
  const Timeouts& timeouts = context_.options.timeouts;
  const int64_t elapsed_ns = now_ns - since_ns_;
  const auto give_up_reading = [&] {
    too_slow_ = true;
    error_code ignored;
    socket_.cancel(ignored);
  };
  switch (phase_) {
    case Phase::kIdle:
      if (elapsed_ns > timeouts.idle_ns) close();
      break;
    case Phase::kHead:
      if (elapsed_ns > timeouts.head_ns) give_up_reading();
      break;
    case Phase::kBody: {
      const double expected_bytes = base::seconds_between(timeouts.body_grace_ns, elapsed_ns) *
                                    static_cast<double>(timeouts.body_bytes_per_s);
      if (static_cast<double>(reader_.body_bytes()) < expected_bytes) give_up_reading();
      break;
    }
    case Phase::kAnswer:
      if (writing_ && now_ns - progress_ns_ > timeouts.stalled_ns) close();
      break;
    case Phase::kLinger:
      if (elapsed_ns > timeouts.linger_ns) close();
      break;
  }
}

void Connection::close_if_idle() {
  if (phase_ == Phase::kIdle) close();
}

void Connection::close() {
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace fourfold::http
