#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "http/exchange.h"
#include "http/server.h"
#include "route/router.h"
#include "serve/api_error.h"
#include "serve/keys.h"

namespace fourfold::route {

/// Whose key a path needs, where there are keys.
enum class Access : uint8_t { kOpen, kClient, kAdmin };

/// A path of the router.
struct RoutePath {
  std::string_view method;  ///< "": any
  std::string_view path;    ///< with * at its end: all that begin so
  Access access;
  std::string_view help;
};

/// All of them, in the order of the documentation; the first that matches holds.
std::vector<RoutePath> route_paths();

/// Everything that the router answers, by path. Its members are called on the server's thread.
class RouteApi {
 public:
  /// Both outlive the API. Without admin keys nobody may use what needs one.
  RouteApi(http::Server& server, Router& router, serve::Keys clients, serve::Keys admins);

  void handle(const std::shared_ptr<http::Exchange>& exchange);
  /// The answer to a request without the key that it needs, or for a path that could be taken for
  /// another; its body need not be there yet.
  std::optional<http::Response> check_head(const http::Request& request) const;

  serve::Keys& client_keys() { return clients_; }
  serve::Keys& admin_keys() { return admins_; }
  /// From now on /ready says no.
  void set_draining() { draining_ = true; }

 private:
  using Handler = std::function<void(const std::shared_ptr<http::Exchange>&)>;
  struct Entry {
    RoutePath path;
    Handler handler;
  };

  void add(std::string_view path, Handler handler);
  void add_json(std::string_view path, std::function<http::Response()> make);
  const Entry* find(std::string_view path) const;
  void forward(const std::shared_ptr<http::Exchange>& exchange);
  http::Response models() const;
  http::Response one_model(const http::Request& request) const;
  http::Response health() const;
  http::Response ready() const;
  nlohmann::ordered_json describe(const Replica& replica) const;
  http::Response replicas() const;
  http::Response add_replica(const http::Request& request);
  http::Response change_replica(const http::Request& request,
                                const std::function<void(Replica&)>& change);

  http::Server& server_;
  Router& router_;
  serve::Keys clients_;
  serve::Keys admins_;
  bool draining_ = false;
  std::vector<Entry> entries_;
};

}  // namespace fourfold::route
