#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "http/message.h"
#include "http/response_reader.h"
#include "http/url.h"

namespace fourfold::http {

/// How long a call may take.
struct CallLimits {
  int64_t connect_ns = 10'000'000'000;   ///< for a connection, its name looked up
  int64_t silence_ns = 600'000'000'000;  ///< without a byte: a long prompt may take its time
  int64_t total_ns = 0;                  ///< for all of it; 0: no limit
  /// In which the end of a kept connection means that the server had closed it before.
  int64_t resend_ns = 1'000'000'000;
};

struct ClientRequest {
  std::string method = "GET";
  std::string path;  ///< behind the URL's
  std::vector<Header> headers;
  std::string body;        ///< JSON where no header says otherwise, or empty
  bool repeatable = true;  ///< it does no harm if the server sees it twice
  CallLimits limits = {};
};

/// Why there is no complete response.
struct CallError {
  enum class Kind : uint8_t {
    kUnreachable,  ///< there is no connection: nobody has seen the request
    kShortage,     ///< the same, but this machine has no descriptor, port or memory left for one
    kLost,         ///< the connection ended, or what came is no HTTP
    kTimeout,
  };
  Kind kind = Kind::kLost;
  std::string message;
};

/// What comes of a call. `on_end` is the last; null: the response is complete.
struct CallHandlers {
  std::function<void(const ResponseHead& head)> on_head;
  std::function<void(std::string_view bytes)> on_body;  ///< a piece, without its chunks' marks
  std::function<void(const CallError* error)> on_end;
};

/// A request on its way. Used on the pool's thread.
class Call {
 public:
  virtual ~Call() = default;
  /// Gives it up at once; no handler is called any more.
  virtual void cancel() = 0;
  /// Takes no more bytes from the server until resume(), however long that is; what was taken is
  /// still handed out.
  virtual void pause() = 0;
  virtual void resume() = 0;
};

/// Connections to one server that are kept and used again; each request under way has one of its
/// own (HTTP/1.1). A request that finds a kept connection closed, when it is sent or within
/// CallLimits::resend_ns, is sent once more over a new one, unless a byte of an answer has come;
/// one that is not repeatable gets a new one at once. Used on one thread, that of `executor`.
class ConnectionPool {
 public:
  /// Connections that are kept at most.
  static constexpr size_t kMostKept = 256;

  ConnectionPool(const boost::asio::any_io_executor& executor, Url url);
  /// What is under way goes on.
  ~ConnectionPool();
  ConnectionPool(const ConnectionPool&) = delete;
  ConnectionPool& operator=(const ConnectionPool&) = delete;

  /// Handlers are called later, on the same thread.
  std::shared_ptr<Call> send(ClientRequest request, CallHandlers handlers);

 private:
  struct Idle;
  class PooledCall;

  std::shared_ptr<Idle> idle_;
};

}  // namespace fourfold::http
