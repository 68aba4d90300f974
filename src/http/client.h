#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "http/message.h"
#include "http/url.h"

namespace fourfold::http {

struct ClientRequest {
  std::string method = "GET";
  std::string path;  ///< behind the URL's
  std::vector<Header> headers;
  std::string body;  ///< JSON, or empty
};

/// Talks to one server over HTTP/1.1. Connections are kept and used again; each request under way
/// has one of its own.
class Client {
 public:
  /// What comes of a request, called on the client's thread.
  struct Handlers {
    std::function<void(int status)> on_head;
    std::function<void(std::string_view bytes)> on_body;  ///< a piece, without its chunks' marks
    /// The last call. Empty: the response is complete; else why it is not.
    std::function<void(const std::string& error)> on_end;
  };

  explicit Client(Url url);
  /// Gives up what is under way; no handler is called after it.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// From any thread.
  void send(ClientRequest request, Handlers handlers);

  struct Reply {
    int status = 0;
    std::string body;
  };
  /// Waits for the whole reply. Not from a handler.
  base::Result<Reply> fetch(ClientRequest request);

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace fourfold::http
