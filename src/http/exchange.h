#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>

#include "http/message.h"

namespace fourfold::http {

/// A request that waits for its answer. Used on the server's thread only, and gone before the
/// server. The answer is either one respond(), or one start(), any number of write() and one
/// finish() or abort(). What is said after the client has gone away is dropped.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const Request& request() const = 0;

  virtual void respond(Response response) = 0;

  /// Begins a body, of `length` bytes where that is known (-1: it is not); `head` has none.
  virtual void start(Response head, int64_t length) = 0;
  void start(Response head) { start(std::move(head), -1); }
  /// Sends more of it. Bytes that the client does not take are kept, up to
  /// Timeouts::pending_bytes. More than the length that start() was told cuts the connection.
  virtual void write(std::string_view bytes) = 0;
  virtual void finish() = 0;
  /// Closes the connection behind what was written, so that the client sees that there should be
  /// more.
  virtual void abort() = 0;

  /// Bytes that wait for the client to take others.
  virtual int64_t pending_bytes() const = 0;
  /// Called each time that they are being sent, so that pending_bytes() is 0; never during a call
  /// to this object.
  virtual void on_drained(std::function<void()> callback) = 0;

  /// Called once if the client goes away, or is cut, before it has the whole answer; never during
  /// a call to this object, and at once if that has happened already.
  virtual void on_gone(std::function<void()> callback) = 0;
};

}  // namespace fourfold::http
