#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "http/exchange.h"
#include "http/request_reader.h"

namespace fourfold::http {

/// When a client that is slow is cut. Looked at every Server::kSweepNs.
struct Timeouts {
  int64_t head_ns = 10'000'000'000;  ///< from a request's first byte to its last header
  int64_t idle_ns = 60'000'000'000;  ///< between requests, and before the first
  int64_t body_grace_ns = 10'000'000'000;
  int64_t body_bytes_per_s = 1024;      ///< of a body, on average, once the grace is over
  int64_t stalled_ns = 60'000'000'000;  ///< without taking a byte of an answer that is there
  int64_t linger_ns = 2'000'000'000;    ///< after an answer that closes the connection
  int64_t pending_bytes = 16 << 20;     ///< of a stream that its reader has not taken
};

struct ServerOptions {
  std::string host = "127.0.0.1";  ///< an address or a name
  uint16_t port = 0;               ///< 0: any free one
  Limits limits;
  Timeouts timeouts;
  int64_t max_connections = 16384;  ///< further ones wait to be accepted
  /// Of all requests that are not answered yet; one that would take more is answered 503.
  int64_t all_body_bytes = int64_t{1} << 30;
  /// Looks at a request before its body is read; an answer instead of null refuses it. Called on
  /// the server's thread.
  std::function<std::optional<Response>(const Request& head)> check_head = {};
  /// Further headers of the answer to a request, whose body need not be there. Called on the
  /// server's thread.
  std::function<std::vector<Header>(const Request& head)> answer_headers = {};
};

/// An HTTP/1.1 server on one thread, the one that calls run(): connections that stay open, strict
/// framing (RequestReader), answers whole or streamed. A client that closes its side of the
/// connection has gone away.
class Server {
 public:
  /// How often slow clients are looked for.
  static constexpr int64_t kSweepNs = 100'000'000;

  /// Called on the server's thread for each complete request.
  using Handler = std::function<void(std::shared_ptr<Exchange>)>;

  /// Listens. `clock` outlives the server. Errors: the address cannot be bound.
  static base::Result<std::unique_ptr<Server>> listen(const ServerOptions& options,
                                                      const base::Clock& clock, Handler handler);
  virtual ~Server() = default;

  virtual uint16_t port() const = 0;
  /// "http://HOST:PORT", as a client on this machine writes it.
  virtual std::string url() const = 0;

  /// Serves until all connections have ended after drain() or stop().
  virtual void run() = 0;
  /// Of the server's thread, for what works there beside it; all of that has ended when run() can
  /// return.
  virtual boost::asio::any_io_executor executor() = 0;
  /// Runs `work` on the server's thread; from any thread, at any time.
  virtual void post(std::function<void()> work) = 0;

  // The members below are called on the server's thread, or before run().

  /// Calls `callback` for every one of these signals, instead of what they did before.
  virtual void on_signal(int signal, std::function<void()> callback) = 0;
  /// Runs `work` after so long on the machine's clock, if run() has not returned by then.
  virtual void after(int64_t delay_ns, std::function<void()> work) = 0;
  /// Accepts no more connections, closes those that are idle, and each other one after its answer.
  virtual void drain() = 0;
  /// Closes everything now.
  virtual void stop() = 0;
  /// Cuts the clients that are too slow at clock.now_ns(); called every kSweepNs.
  virtual void sweep() = 0;
  virtual int64_t connections() const = 0;
};

/// True if `host` names only addresses of this machine that no other can reach. Errors: it names
/// nothing.
base::Result<bool> is_loopback(const std::string& host);

}  // namespace fourfold::http
