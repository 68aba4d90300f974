#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "http/server.h"
#include "serve/keys.h"

namespace fourfold::serve {

/// Where a program serves, whom, and how it ends: what `serve` and `route` have in common.
struct FrontOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  std::string key_file;             ///< Keys; "": no key is needed
  bool allow_no_auth = false;       ///< serve others than this machine without a key
  int64_t shutdown_timeout_s = 30;  ///< what is under way may take so long after SIGTERM
};

/// The keys that clients need. Errors: those of Keys::read; none, and other machines could come.
base::Result<Keys> read_keys(const FrontOptions& options);

/// Raises the limit of descriptors as far as it goes. `descriptors`: that a connection takes.
http::ServerOptions server_options(const FrontOptions& options, int64_t descriptors = 1);

struct FrontHooks {
  std::function<int64_t()> open_requests;
  std::function<void()> drain;  ///< no more requests will come
  std::function<void()> read_keys_again;
};

/// SIGTERM and SIGINT let the server end once what is under way is done, at most
/// `shutdown_timeout_s` later; a second one ends it now. `cut` gets the requests that were under
/// way then. SIGHUP reads the keys again.
void handle_signals(http::Server& server, int64_t shutdown_timeout_s, const FrontHooks& hooks,
                    int64_t& cut);

/// Reads `key_file` again and says so in the log; the old keys stay if it cannot be read. No file:
/// nothing happens.
void read_keys_again(const std::string& key_file, Keys& keys);

}  // namespace fourfold::serve
