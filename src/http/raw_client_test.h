#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

namespace fourfold::http {

/// A client of tests that sends and receives plain bytes, waiting at most 20 s for each.
class RawClient {
 public:
  explicit RawClient(uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  /// The other end of a connection that was accepted.
  static RawClient accepted(int fd) { return RawClient(Accepted{fd}); }
  ~RawClient() { close(); }
  RawClient(RawClient&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), connected_(other.connected_), text_(other.text_) {}
  RawClient& operator=(RawClient&&) = delete;

  bool connected() const { return connected_; }
  /// The server has ended the connection, as a read has found.
  bool ended() const { return ended_; }

  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }

  /// All bytes up to the first `end`, itself included; what there is if the connection ends.
  std::string read_until(std::string_view end) {
    size_t found = 0;
    while ((found = text_.find(end)) == std::string::npos) {
      if (!receive()) return std::exchange(text_, {});
    }
    std::string out = text_.substr(0, found + end.size());
    text_.erase(0, out.size());
    return out;
  }

  /// So many bytes; fewer if the connection ends.
  std::string read_bytes(size_t count) {
    while (text_.size() < count && receive()) {
    }
    std::string out = text_.substr(0, count);
    text_.erase(0, out.size());
    return out;
  }

  /// One answer with a Content-Length: its head and its body.
  std::pair<std::string, std::string> read_response() {
    std::string head = read_until("\r\n\r\n");
    const std::string name = "Content-Length: ";
    const size_t at = head.find(name);
    const size_t length =
        at == std::string::npos ? 0 : std::strtoul(head.c_str() + at + name.size(), nullptr, 10);
    return {std::move(head), read_bytes(length)};
  }

  /// Everything until the server closes the connection.
  std::string read_all() {
    while (receive()) {
    }
    return std::exchange(text_, {});
  }

  void close() {
    if (fd_ < 0) return;
    shutdown(fd_, SHUT_RDWR);  // whoever else has the socket
    ::close(std::exchange(fd_, -1));
  }

  int fd() const { return fd_; }

  /// Ends the connection as a process does that dies with unread bytes.
  void reset() {
    sockaddr nobody{};
    nobody.sa_family = AF_UNSPEC;
    connect(fd_, &nobody, sizeof nobody);
    close();
  }

 private:
  struct Accepted {
    int fd;
  };
  explicit RawClient(Accepted accepted) : fd_(accepted.fd), connected_(true) {}

  bool receive() {
    pollfd wanted{.fd = fd_, .events = POLLIN, .revents = 0};
    if (poll(&wanted, 1, 20'000) != 1) return false;
    std::array<char, 4096> bytes;
    const ssize_t count = recv(fd_, bytes.data(), bytes.size(), 0);
    ended_ = count <= 0;
    if (ended_) return false;
    text_.append(bytes.data(), static_cast<size_t>(count));
    return true;
  }

  int fd_ = -1;
  bool connected_ = false;
  bool ended_ = false;
  std::string text_;
};

}  // namespace fourfold::http
