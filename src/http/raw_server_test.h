#pragma once

#include <functional>
#include <list>
#include <mutex>
#include <thread>

#include "http/raw_client_test.h"

namespace fourfold::http {

/// A server of tests that does with each connection what a script says, on a thread of its own, and
/// closes it then.
class RawServer {
 public:
  /// `number` counts connections from 0.
  using Script = std::function<void(RawClient& connection, int number)>;

  explicit RawServer(Script script) : script_(std::move(script)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof address;
    bind(fd_, reinterpret_cast<const sockaddr*>(&address), size);
    listen(fd_, SOMAXCONN);
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  /// Ends all connections and waits for their scripts.
  ~RawServer() {
    shutdown(fd_, SHUT_RDWR);
    acceptor_.join();
    for (const int fd : open_) shutdown(fd, SHUT_RDWR);
    for (std::thread& thread : threads_) thread.join();
    for (const int fd : open_) ::close(fd);
    ::close(fd_);
  }
  RawServer(const RawServer&) = delete;
  RawServer& operator=(const RawServer&) = delete;

  uint16_t port() const { return port_; }
  int connections() const {
    const std::lock_guard lock(mutex_);
    return connections_;
  }

 private:
  void accept_all() {
    while (true) {
      const int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      const std::lock_guard lock(mutex_);
      const int number = connections_++;
      open_.push_back(dup(fd));  // the script may close its own
      threads_.emplace_back([this, fd, number] {
        RawClient connection = RawClient::accepted(fd);
        script_(connection, number);
      });
    }
  }

  Script script_;
  int fd_ = -1;
  uint16_t port_ = 0;
  mutable std::mutex mutex_;
  int connections_ = 0;
  std::list<int> open_;
  std::list<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace fourfold::http
