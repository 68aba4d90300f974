#pragma once

#include <functional>
#include <string_view>

#include "http/message.h"

namespace fourfold::http {

/// A request that waits for its answer. Used on the server's thread only, and gone before the
/// server. The answer is either one
/// respond(), or one start(), any number of write() and one finish(). What is said after the client
/// has gone away is dropped.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const Request& request() const = 0;

  virtual void respond(Response response) = 0;

  /// Begins a body of unknown length; `head` has none.
  virtual void start(Response head) = 0;
  /// Sends more of it. Bytes that the client does not take are kept, up to
  /// Timeouts::pending_bytes.
  virtual void write(std::string_view bytes) = 0;
  virtual void finish() = 0;

  /// Called once if the client goes away, or is cut, before it has the whole answer; never during
  /// a call to this object, and at once if that has happened already.
  virtual void on_gone(std::function<void()> callback) = 0;
};

}  // namespace fourfold::http
