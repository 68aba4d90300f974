#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/server.h"
#include "serve/keys.h"
#include "serve/site_rules.h"

namespace fourfold::serve {

/// Where a program serves, whom, and how it ends: what `serve` and `route` have in common.
struct FrontOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  std::string key_file;                      ///< Keys; "": no key is needed
  bool allow_no_auth = false;                ///< serve others than this machine without a key
  std::vector<std::string> allowed_hosts;    ///< parse_allowed_host()
  std::vector<std::string> allowed_origins;  ///< parse_allowed_origin()
  int64_t shutdown_timeout_s = 30;           ///< what is under way may take so long after SIGTERM
};

/// The keys that clients need. Errors: those of Keys::read; none, and other machines could come.
base::Result<Keys> read_keys(const FrontOptions& options);

/// Which pages may use the server: Host is looked at where only this machine is served, or where
/// names are given. Errors: the address to listen on names nothing; a name or an origin that is
/// none.
base::Result<SiteRules> site_rules(const FrontOptions& options);

/// Of a server that answers by `sites` and `check_head`; both outlive it. Raises the limit of
/// descriptors as far as it goes. `descriptors`: that a connection takes.
using CheckHead = std::function<std::optional<http::Response>(const http::Request& head)>;
http::ServerOptions server_options(const FrontOptions& options, const SiteRules& sites,
                                   CheckHead check_head, int64_t descriptors = 1);
/// `handler` for what `sites` lets pass.
http::Server::Handler guarded(const SiteRules& sites, http::Server::Handler handler);

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
