#include "route/route_api.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/version.h"
#include "files/json.h"

namespace fourfold::route {

using nlohmann::json;
using nlohmann::ordered_json;

namespace {

constexpr std::string_view kOneModel = "/v1/models/*";

http::Response json_response(const ordered_json& body, int status = 200) {
  return {.status = status,
          .content_type = "application/json",
          .body = body.dump(-1, ' ', false, ordered_json::error_handler_t::replace),
          .headers = {}};
}

http::Response error(int status, const std::string& message, const std::string& code = {}) {
  return serve::error_response({.status = status, .message = message, .param = {}, .code = code});
}

bool matches(const RoutePath& entry, std::string_view path) {
  if (!entry.path.ends_with('*')) return entry.path == path;
  const std::string_view prefix = entry.path.substr(0, entry.path.size() - 1);
  return path.starts_with(prefix) && path.size() > prefix.size();
}

/// It has a segment "." or "..", which a replica, or a proxy in front of it, may resolve to a path
/// that is not what was matched here.
bool has_dot_segment(std::string_view path) {
  const std::string decoded = http::percent_decoded(path);
  std::string_view rest = decoded;
  while (true) {
    const size_t end = std::min(rest.find('/'), rest.size());
    const std::string_view segment = rest.substr(0, end);
    if (segment == "." || segment == "..") return true;
    if (end == rest.size()) return false;
    rest.remove_prefix(end + 1);
  }
}

bool is_json_or_multipart(const http::Request& request) {
  const std::string_view type = request.header("content-type");
  const std::string name = http::lower_case(http::trimmed(type.substr(0, type.find(';'))));
  return name == "application/json" || name == "multipart/form-data";
}

/// {"url": "http://…"}.
base::Result<http::Url> read_url(const http::Request& request) {
  FF_ASSIGN(const json body, files::parse_json(request.body, "the body", {.max_bytes = 1 << 16}));
  FF_ASSIGN(const auto url, files::json_get<std::string>(body, "url", "the body"));
  return http::Url::parse(url);
}

}  // namespace

namespace {

/// One method of a path.
ordered_json operation(const RoutePath& entry) {
  ordered_json out = {{"summary", entry.help}};
  if (entry.path.ends_with('*')) {
    out["parameters"] = {
        {{"name", "rest"}, {"in", "path"}, {"required", true}, {"schema", {{"type", "string"}}}}};
  }
  ordered_json responses = {{"200", {{"description", "The answer"}}}};
  if (entry.access == Access::kOpen) {
    out["security"] = ordered_json::array();
  } else {
    responses["401"] = {{"description", "No valid key"}};
  }
  if (entry.access == Access::kAdmin) {
    out["security"] = {{{"admin_key", ordered_json::array()}}};
    responses["403"] = {{"description", "The router has no keys of admins"}};
  }
  out["responses"] = std::move(responses);
  return out;
}

/// The OpenAPI 3.1 document of what route_paths() says. What is passed on is described by the
/// replicas' own.
ordered_json openapi() {
  ordered_json paths = ordered_json::object();
  for (const RoutePath& entry : route_paths()) {
    std::string path(entry.path);
    if (path.ends_with('*')) path.replace(path.size() - 1, 1, "{rest}");
    for (const auto& [method, name] : {std::pair("GET", "get"), std::pair("POST", "post")}) {
      if (entry.method.empty() || entry.method == method) paths[path][name] = operation(entry);
    }
  }
  const ordered_json bearer = {{"type", "http"}, {"scheme", "bearer"}};
  return {{"openapi", "3.1.0"},
          {"info",
           {{"title", "fourfold route"},
            {"version", base::version()},
            {"description", "A router in front of servers with OpenAI's API"}}},
          {"components", {{"securitySchemes", {{"key", bearer}, {"admin_key", bearer}}}}},
          {"security", {{{"key", ordered_json::array()}}}},
          {"paths", std::move(paths)}};
}

}  // namespace

std::vector<RoutePath> route_paths() {
  using enum Access;
  return {
      {"GET", "/v1/models", kClient, "The models of all replicas in use"},
      {"GET", kOneModel, kClient, "The same for one id"},
      {"", "/v1/*", kClient, "Passed on to a replica, whatever the path and the method"},
      {"POST", "/tokenize", kClient, "Passed on to a replica"},
      {"POST", "/detokenize", kClient, "Passed on to a replica"},
      {"GET", "/health", kOpen, "200 while a replica takes requests, else 503"},
      {"GET", "/ready", kOpen, "The same, and 503 once the router ends"},
      {"GET", "/ping", kOpen, "200 while the router's thread lives"},
      {"GET", "/metrics", kClient, "Figures in Prometheus' text format"},
      {"GET", "/version", kClient, "The program's version"},
      {"GET", "/openapi.json", kClient, "These paths as an OpenAPI document"},
      {"GET", "/admin/replicas", kAdmin, "The replicas with their state and load"},
      {"POST", "/admin/replicas/add", kAdmin,
       "A new one; one that drains takes requests again. The body, here and below: {\"url\": …}"},
      {"POST", "/admin/replicas/drain", kAdmin, "No more requests for it; it finishes what it has"},
      {"POST", "/admin/replicas/remove", kAdmin, "Forget it, and cut what it has"},
  };
}

RouteApi::RouteApi(http::Server& server, Router& router, serve::Keys clients, serve::Keys admins)
    : server_(server), router_(router), clients_(std::move(clients)), admins_(std::move(admins)) {
  using Exchange = std::shared_ptr<http::Exchange>;
  add_json("/v1/models", [this] { return models(); });
  add(kOneModel, [this](const Exchange& e) { e->respond(one_model(e->request())); });
  for (const char* path : {"/v1/*", "/tokenize", "/detokenize"}) {
    add(path, [this](const Exchange& e) { forward(e); });
  }
  add_json("/health", [this] { return health(); });
  add_json("/ready", [this] { return ready(); });
  add_json("/ping", [] { return json_response(ordered_json::object()); });
  add_json("/metrics", [this] {
    return http::Response{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                          .body = router_.metrics().page(router_.replicas(), server_.connections()),
                          .headers = {}};
  });
  add_json("/version", [] { return json_response({{"version", base::version()}}); });
  add_json("/openapi.json", [] { return json_response(openapi()); });
  add_json("/admin/replicas", [this] { return replicas(); });
  add("/admin/replicas/add", [this](const Exchange& e) { e->respond(add_replica(e->request())); });
  add("/admin/replicas/drain", [this](const Exchange& e) {
    e->respond(change_replica(e->request(), [this](Replica& r) { router_.drain(r); }));
  });
  add("/admin/replicas/remove", [this](const Exchange& e) {
    e->respond(change_replica(e->request(), [this](Replica& r) { router_.remove(r.id); }));
  });
  CHECK(entries_.size() == route_paths().size(), "{} of {} paths have a handler", entries_.size(),
        route_paths().size());
}

void RouteApi::add(std::string_view path, Handler handler) {
  for (const RoutePath& known : route_paths()) {
    if (known.path == path) return entries_.push_back({known, std::move(handler)});
  }
  CHECK(false, "{} is no path of the router", path);
}

void RouteApi::add_json(std::string_view path, std::function<http::Response()> make) {
  add(path, [make = std::move(make)](const std::shared_ptr<http::Exchange>& exchange) {
    exchange->respond(make());
  });
}

const RouteApi::Entry* RouteApi::find(std::string_view path) const {
  const auto entry = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& e) { return matches(e.path, path); });
  return entry == entries_.end() ? nullptr : &*entry;
}

std::optional<http::Response> RouteApi::check_head(const http::Request& request) const {
  if (has_dot_segment(request.path)) {
    return error(400, "a path with a segment \".\" or \"..\" is not taken");
  }
  const Entry* entry = find(request.path);
  const Access access = entry == nullptr ? Access::kClient : entry->path.access;
  if (access == Access::kOpen) return std::nullopt;
  if (access == Access::kAdmin && !admins_.needed()) {
    return error(403, "the router was started without --admin-key-file");
  }
  const serve::Keys& keys = access == Access::kAdmin ? admins_ : clients_;
  if (keys.accept(request.header("authorization"))) return std::nullopt;
  return error(401, "no valid key: send one as \"Authorization: Bearer KEY\"", "invalid_api_key");
}

void RouteApi::handle(const std::shared_ptr<http::Exchange>& exchange) {
  const http::Request& request = exchange->request();
  if (auto refusal = check_head(request)) return exchange->respond(std::move(*refusal));
  const Entry* entry = find(request.path);
  if (entry == nullptr) {
    return exchange->respond(
        error(404, "there is nothing at this path of the router", "not_found"));
  }
  const std::string_view method = entry->path.method;
  const bool fits =
      method.empty() || request.method == method || (method == "GET" && request.method == "HEAD");
  if (!fits) {
    http::Response refusal = error(405, fmt::format("{} takes {}", request.path, method));
    refusal.headers.push_back({"Allow", std::string(method)});
    return exchange->respond(std::move(refusal));
  }
  entry->handler(exchange);
}

void RouteApi::forward(const std::shared_ptr<http::Exchange>& exchange) {
  const http::Request& request = exchange->request();
  const bool adds_key = !router_.replica_key().empty() && request.header("authorization").empty();
  // A page of another site can make a browser post texts and forms here, which the router's key
  // would let in.
  if (adds_key && !request.body.empty() && !is_json_or_multipart(request)) {
    return exchange->respond(
        error(415, "expected \"Content-Type: application/json\"", "unsupported_media_type"));
  }
  router_.forward(exchange);
}

http::Response RouteApi::models() const {
  ordered_json data = ordered_json::array();
  std::vector<std::string_view> ids;
  for (const Replica& replica : router_.replicas().all()) {
    if (!replica.takes_requests()) continue;
    for (const auto& [id, text] : replica.models) {
      if (std::find(ids.begin(), ids.end(), id) != ids.end()) continue;
      ids.emplace_back(id);
      data.push_back(ordered_json::parse(text));
    }
  }
  return json_response({{"object", "list"}, {"data", std::move(data)}});
}

http::Response RouteApi::one_model(const http::Request& request) const {
  const std::string wanted =
      http::percent_decoded(std::string_view(request.path).substr(kOneModel.size() - 1));
  for (const Replica& replica : router_.replicas().all()) {
    if (!replica.takes_requests()) continue;
    for (const auto& [id, text] : replica.models) {
      if (id == wanted) return json_response(ordered_json::parse(text));
    }
  }
  return error(404, "no replica in use has this model", "model_not_found");
}

http::Response RouteApi::health() const {
  const int64_t in_use = router_.replicas().in_use();
  return json_response({{"status", in_use > 0 ? "ok" : "failed"},
                        {"replicas", std::ssize(router_.replicas().all())},
                        {"in_use", in_use}},
                       in_use > 0 ? 200 : 503);
}

http::Response RouteApi::ready() const {
  const bool any = router_.replicas().in_use() > 0;
  return json_response({{"status", draining_ ? "draining"
                                   : any     ? "ready"
                                             : "failed"}},
                       any && !draining_ ? 200 : 503);
}

ordered_json RouteApi::describe(const Replica& replica) const {
  ordered_json models = ordered_json::array();
  for (const auto& [id, text] : replica.models) models.push_back(id);
  return {{"url", replica.name},
          {"state", replica.draining          ? "draining"
                    : replica.health.in_use() ? "in_use"
                                              : "ejected"},
          {"healthy", replica.health.in_use()},
          {"requests", replica.requests},
          {"outstanding_tokens", replica.tokens},
          {"foreign_requests", replica.foreign_requests},
          {"free_kv", static_cast<double>(replica.free_kv) / Replica::kAllKv},
          {"ejections", replica.health.ejections()},
          {"models", std::move(models)}};
}

http::Response RouteApi::replicas() const {
  ordered_json out = ordered_json::array();
  for (const Replica& replica : router_.replicas().all()) out.push_back(describe(replica));
  return json_response({{"replicas", std::move(out)}});
}

http::Response RouteApi::add_replica(const http::Request& request) {
  const auto url = read_url(request);
  if (!url.ok()) return error(400, url.error().message);
  const base::Status added = router_.add(*url);
  if (!added.ok()) return error(router_.stopped() ? 503 : 409, added.error().message);
  return json_response(describe(*router_.replicas().find(*url)), 201);
}

http::Response RouteApi::change_replica(const http::Request& request,
                                        const std::function<void(Replica&)>& change) {
  const auto url = read_url(request);
  if (!url.ok()) return error(400, url.error().message);
  Replica* replica = router_.replicas().find(*url);
  if (replica == nullptr) return error(404, "there is no such replica");
  change(*replica);
  replica = router_.replicas().find(*url);
  return json_response(replica == nullptr ? ordered_json::object() : describe(*replica));
}

}  // namespace fourfold::route
