#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/result.h"
#include "http/connection_pool.h"
#include "http/url.h"

namespace fourfold::http {

/// Talks to one server over HTTP/1.1, on a thread of its own.
class Client {
 public:
  explicit Client(Url url);
  /// Gives up what is under way; no handler is called after it.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// From any thread. Handlers are called on the client's.
  void send(ClientRequest request, CallHandlers handlers);

  struct Reply {
    int status = 0;
    std::string body;
  };
  struct FetchOptions {
    size_t most_bytes = size_t{16} << 20;  ///< of the body
    std::function<bool()> stop;            ///< true: give up; asked often. Empty: never
  };
  /// Waits for the whole reply, at most kFetchNs where the request sets no total limit. Not from a
  /// handler. Errors: there is none, or a larger one, or it was given up.
  base::Result<Reply> fetch(ClientRequest request, const FetchOptions& options);
  base::Result<Reply> fetch(ClientRequest request) { return fetch(std::move(request), {}); }

  static constexpr int64_t kFetchNs = 60'000'000'000;

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace fourfold::http
