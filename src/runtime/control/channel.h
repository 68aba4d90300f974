#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/result.h"
#include "runtime/control/frame.h"
#include "runtime/control/unique_fd.h"

namespace fourfold::runtime {

/// What a channel says when its other end is closed: it ended, or its process died.
inline constexpr std::string_view kChannelClosed = "the control channel was closed";

/// One end of a stream of frames. Any thread may send; one thread at a time may receive. No call
/// raises SIGPIPE, and no descriptor outlives an exec.
class Channel {
 public:
  explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}

  /// Connects to a listening Unix socket.
  static base::Result<std::unique_ptr<Channel>> connect(const std::filesystem::path& path);

  /// Errors: the other end is closed, or takes nothing for longer than the limit, if there is one;
  /// then the channel is of no use any more.
  base::Status send(const Message& message) { return send_frame(encode_frame(message)); }
  /// The same for a frame that is encoded once and goes to several ranks.
  base::Status send_frame(std::span<const std::byte> frame);
  base::Status limit_send(std::chrono::seconds limit);

  /// Blocks until a message is there. Errors: the other end is closed, a broken frame.
  base::Result<Message> receive();
  /// The same without waiting: nothing if no whole message has arrived.
  base::Result<std::optional<Message>> try_receive();

  /// For poll: readable when try_receive has something to do.
  int fd() const { return socket_.get(); }
  /// Of all frames so far, both ways.
  int64_t bytes() const { return bytes_; }
  /// The process at the other end, as the kernel knows it.
  base::Result<pid_t> peer_pid() const;

 private:
  /// The next whole message among the bytes that were read, if there is one.
  base::Result<std::optional<Message>> take_buffered();
  /// Reads what is there into the buffer; with `flags` MSG_DONTWAIT maybe nothing. False: nothing.
  base::Result<bool> fill(int flags);

  UniqueFd socket_;
  std::atomic<int64_t> bytes_ = 0;
  std::mutex send_mutex_;
  std::vector<std::byte> buffer_;  // received, from begin_ on not yet taken
  size_t begin_ = 0;
};

/// Accepts channels at a Unix socket; the file is its owner's to remove.
class Listener {
 public:
  static base::Result<Listener> create(const std::filesystem::path& path);
  /// Without waiting: null if nobody is there.
  base::Result<std::unique_ptr<Channel>> accept();
  int fd() const { return socket_.get(); }

 private:
  explicit Listener(UniqueFd socket) : socket_(std::move(socket)) {}
  UniqueFd socket_;
};

}  // namespace fourfold::runtime
