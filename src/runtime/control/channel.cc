#include "runtime/control/channel.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace fourfold::runtime {
namespace {

using base::fail;

constexpr int kBacklog = 1024;
constexpr size_t kReadBytes = size_t{64} << 10;

base::Error system_error(std::string_view what) {
  return fail("{}: {}", what, std::strerror(errno));  // NOLINT: the text is copied at once
}

base::Result<sockaddr_un> address_of(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.native().size() >= sizeof address.sun_path) {
    return fail(
        "the socket path {} has {} bytes, at most {} are possible: set TMPDIR to a shorter one",
        path.native(), path.native().size(), sizeof address.sun_path - 1);
  }
  std::memcpy(address.sun_path, path.c_str(), path.native().size() + 1);
  return address;
}

base::Result<UniqueFd> make_socket(int flags) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!socket.valid()) return system_error("cannot make a socket");
  return socket;
}

}  // namespace

base::Result<std::unique_ptr<Channel>> Channel::connect(const std::filesystem::path& path) {
  FF_ASSIGN(const sockaddr_un address, address_of(path));
  FF_ASSIGN(UniqueFd socket, make_socket(0));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return system_error(fmt::format("cannot connect to {}", path.native()));
  }
  return std::make_unique<Channel>(std::move(socket));
}

base::Status Channel::limit_send(std::chrono::seconds limit) {
  const timeval timeout{.tv_sec = limit.count(), .tv_usec = 0};
  if (setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0) {
    return system_error("cannot limit the time of a send");
  }
  return {};
}

base::Status Channel::send_frame(std::span<const std::byte> frame) {
  const std::lock_guard lock(send_mutex_);
  std::span<const std::byte> rest = frame;
  while (!rest.empty()) {
    const ssize_t sent = ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EPIPE || errno == ECONNRESET) return fail("{}", kChannelClosed);
      if (errno == EAGAIN) return fail("the other end of the control channel takes nothing");
      return system_error("cannot send on the control channel");
    }
    bytes_ += sent;
    rest = rest.subspan(static_cast<size_t>(sent));
  }
  return {};
}

base::Result<std::optional<Message>> Channel::take_buffered() {
  const std::span<const std::byte> bytes = std::span(buffer_).subspan(begin_);
  if (bytes.size() < kFrameHeaderBytes) return std::optional<Message>();
  FF_ASSIGN(const FrameHeader header, decode_header(bytes));
  if (bytes.size() - kFrameHeaderBytes < header.payload_bytes) return std::optional<Message>();
  FF_ASSIGN(Message message,
            decode_payload(header.type, bytes.subspan(kFrameHeaderBytes, header.payload_bytes)));
  begin_ += kFrameHeaderBytes + header.payload_bytes;
  return std::optional<Message>(std::move(message));
}

base::Result<bool> Channel::fill(int flags) {
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
  begin_ = 0;
  const size_t size = buffer_.size();
  buffer_.resize(size + kReadBytes);
  ssize_t received = 0;
  do {
    received = ::recv(socket_.get(), buffer_.data() + size, kReadBytes, flags);
  } while (received < 0 && errno == EINTR);
  const int error = errno;
  buffer_.resize(size + static_cast<size_t>(std::max<ssize_t>(received, 0)));
  if (received > 0) {
    bytes_ += received;
    return true;
  }
  if (received == 0 || error == ECONNRESET) return fail("{}", kChannelClosed);
  if (error == EAGAIN) return false;
  return fail("cannot receive on the control channel: {}", std::strerror(error));
}

base::Result<Message> Channel::receive() {
  while (true) {
    FF_ASSIGN(std::optional<Message> message, take_buffered());
    if (message) return std::move(*message);
    FF_TRY(fill(0));
  }
}

base::Result<std::optional<Message>> Channel::try_receive() {
  while (true) {
    FF_ASSIGN(std::optional<Message> message, take_buffered());
    if (message) return message;
    FF_ASSIGN(const bool more, fill(MSG_DONTWAIT));
    if (!more) return std::optional<Message>();
  }
}

base::Result<pid_t> Channel::peer_pid() const {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return system_error("cannot ask for the peer of a control channel");
  }
  return peer.pid;
}

base::Result<Listener> Listener::create(const std::filesystem::path& path) {
  FF_ASSIGN(const sockaddr_un address, address_of(path));
  FF_ASSIGN(UniqueFd socket, make_socket(SOCK_NONBLOCK));
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(socket.get(), kBacklog) != 0) {
    return system_error(fmt::format("cannot listen at {}", path.native()));
  }
  return Listener(std::move(socket));
}

base::Result<std::unique_ptr<Channel>> Listener::accept() {
  UniqueFd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
      return std::unique_ptr<Channel>();
    }
    return system_error("cannot accept a control channel");
  }
  return std::make_unique<Channel>(std::move(socket));
}

}  // namespace fourfold::runtime
