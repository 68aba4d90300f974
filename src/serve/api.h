#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "http/exchange.h"
#include "http/server.h"
#include "runtime/cluster.h"
#include "serve/keys.h"
#include "serve/served_model.h"
#include "serve/service.h"

namespace fourfold::serve {

/// A path of the server.
struct Route {
  std::string_view method;
  std::string_view path;
  bool open = false;  ///< needs no key
  std::string_view help;
};

/// All of them, in the order of the documentation.
std::vector<Route> routes();

/// Everything that the server answers, by path. Its members are called on the server's thread.
class Api {
 public:
  /// All of these outlive the API.
  Api(std::shared_ptr<const ServedModel> model, runtime::Cluster& cluster, http::Server& server,
      Service& service, Keys keys);

  void handle(const std::shared_ptr<http::Exchange>& exchange);
  /// The answer to a request without the key that it needs; its body need not be there yet.
  std::optional<http::Response> check_head(const http::Request& request);

  Keys& keys() { return keys_; }
  /// From now on /ready says no.
  void set_draining() { draining_ = true; }

 private:
  using Handler = std::function<void(const std::shared_ptr<http::Exchange>&)>;
  struct Entry {
    Route route;
    Handler handler;
  };

  const Entry* find(std::string_view path) const;
  void add(std::string_view path, Handler handler);
  void add_get(std::string_view path, std::function<http::Response()> make);
  void refuse(http::Exchange& exchange, const ApiError& error, std::string_view allow = {});
  nlohmann::ordered_json describe_model() const;
  http::Response models() const;
  void answer_model(http::Exchange& exchange);
  http::Response health() const;
  http::Response ready() const;
  http::Response metrics() const;
  std::optional<ApiError> read_small(const http::Request& request, Endpoint endpoint, Fields* out,
                                     http::Response* answer) const;
  http::Response tokenize(const http::Request& request) const;
  http::Response detokenize(const http::Request& request) const;

  std::shared_ptr<const ServedModel> model_;
  runtime::Cluster& cluster_;
  http::Server& server_;
  Service& service_;
  Keys keys_;
  bool draining_ = false;
  std::vector<Entry> entries_;
};

/// The OpenAPI 3.1 document of what `routes()` and `fields()` say.
std::string openapi_json(const std::string& model);

}  // namespace fourfold::serve
