#include "serve/api.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/version.h"
#include "serve/generation_request.h"
#include "serve/page/assets.h"
#include "serve/request_json.h"
#include "serve/tools.h"

namespace fourfold::serve {

using nlohmann::json;
using nlohmann::ordered_json;

namespace {

/// `out` with its further headers, as JSON.
http::Response json_response(const ordered_json& body, int status = 200, http::Response out = {}) {
  out.status = status;
  out.content_type = "application/json";
  out.body = body.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  return out;
}

/// A file of the page. It runs only its own program, and talks to its own server only.
http::Response page_file(const std::string& type, std::string_view text) {
  return {.content_type = type + "; charset=utf-8",
          .body = std::string(text),
          .headers = {{"Content-Security-Policy",
                       "default-src 'none'; script-src 'self'; style-src 'self'; connect-src "
                       "'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                       "frame-ancestors 'none'"},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cache-Control", "no-cache"}}};
}

constexpr std::string_view kModels = "/v1/models/";
constexpr std::string_view kOneModel = "/v1/models/{model}";

bool matches(const Route& route, std::string_view path) {
  if (route.path == kOneModel) return path.starts_with(kModels) && path.size() > kModels.size();
  return route.path == path;
}

/// The tokens of a request's messages and tools.
std::optional<ApiError> encode_chat(std::string_view body, const Fields& fields,
                                    const ServedModel& model,
                                    std::vector<engine::TokenId>* tokens) {
  ordered_json ordered;
  ordered_json tools;
  if (auto error = parse_ordered(body, "", &ordered)) return error;
  if (auto error = read_tools(fields, ordered, model, &tools)) return error;
  return encode_messages(std::move(ordered["messages"]), tools,
                         fields.boolean("add_generation_prompt"), model, tokens);
}

}  // namespace

std::vector<Route> routes() {
  return {
      {"GET", "/", true, "A page with a chat and what the server does"},
      {"GET", "/page.css", true, "Its style"},
      {"GET", "/page.js", true, "Its program"},
      {"POST", "/v1/completions", false, "Completions of prompts, whole or streamed"},
      {"POST", "/v1/chat/completions", false, "An answer in a chat, whole or streamed"},
      {"GET", "/v1/models", false, "The model that is served, with its context length"},
      {"GET", "/v1/models/{model}", false, "The same for one id"},
      {"POST", "/tokenize", false, "The tokens of a text or of a chat"},
      {"POST", "/detokenize", false, "The text of tokens"},
      {"GET", "/health", true, "200 while a group of ranks finishes steps; 503 when none does"},
      {"GET", "/ready", true, "200 while requests are taken and a group computes"},
      {"GET", "/ping", true, "200 while the server's thread lives"},
      {"GET", "/metrics", false, "Figures in Prometheus' text format"},
      {"GET", "/version", false, "The program's version"},
      {"POST", "/reset_prefix_cache", false, "Forget all cached prefixes"},
      {"GET", "/openapi.json", false, "This API as an OpenAPI document"},
  };
}

Api::Api(std::shared_ptr<const ServedModel> model, runtime::Cluster& cluster, http::Server& server,
         Service& service, Keys keys)
    : model_(std::move(model)),
      cluster_(cluster),
      server_(server),
      service_(service),
      keys_(std::move(keys)) {
  using Exchange = std::shared_ptr<http::Exchange>;
  add_get("/", [] { return page_file("text/html", kPageHtml); });
  add_get("/page.css", [] { return page_file("text/css", kPageCss); });
  add_get("/page.js", [] { return page_file("text/javascript", kPageJs); });
  add("/v1/completions",
      [this](const Exchange& e) { service_.generate(Endpoint::kCompletions, e); });
  add("/v1/chat/completions", [this](const Exchange& e) { service_.generate(Endpoint::kChat, e); });
  add_get("/v1/models", [this] { return models(); });
  add(kOneModel, [this](const Exchange& e) { answer_model(*e); });
  add("/tokenize", [this](const Exchange& e) {
    service_.answer_elsewhere(e,
                              [this](const http::Request& request) { return tokenize(request); });
  });
  add("/detokenize", [this](const Exchange& e) {
    service_.answer_elsewhere(e,
                              [this](const http::Request& request) { return detokenize(request); });
  });
  add_get("/health", [this] { return health(); });
  add_get("/ready", [this] { return ready(); });
  add_get("/ping", [] { return json_response(ordered_json::object()); });
  add_get("/metrics", [this] { return metrics(); });
  add_get("/version", [] { return json_response({{"version", base::version()}}); });
  // Engines forget between two steps, which may take a while.
  add("/reset_prefix_cache", [this](const Exchange& e) {
    service_.answer_elsewhere(e, [this](const http::Request&) {
      cluster_.clear_prefix_cache();
      return json_response(ordered_json::object());
    });
  });
  add_get("/openapi.json", [this] {
    return http::Response{
        .content_type = "application/json", .body = openapi_json(model_->id), .headers = {}};
  });
  CHECK(entries_.size() == routes().size(), "{} of {} routes have a handler", entries_.size(),
        routes().size());
}

void Api::add(std::string_view path, Handler handler) {
  for (const Route& route : routes()) {
    if (route.path == path) return entries_.push_back({route, std::move(handler)});
  }
  CHECK(false, "{} is no route", path);
}

void Api::add_get(std::string_view path, std::function<http::Response()> make) {
  add(path, [this, make = std::move(make)](const std::shared_ptr<http::Exchange>& exchange) {
    service_.respond(*exchange, exchange->request().path, make());
  });
}

const Api::Entry* Api::find(std::string_view path) const {
  const auto entry = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& e) { return matches(e.route, path); });
  return entry == entries_.end() ? nullptr : &*entry;
}

std::optional<http::Response> Api::check_head(const http::Request& request) {
  const Entry* entry = find(request.path);
  const bool open = entry != nullptr && entry->route.open;
  if (open || keys_.accept(request.header("authorization"))) return std::nullopt;
  http::Response refusal =
      error_response({.status = 401,
                      .message = "no valid key: send one as \"Authorization: Bearer KEY\"",
                      .param = {},
                      .code = "invalid_api_key"});
  service_.count_answer(request, "none", refusal.status);
  return refusal;
}

void Api::handle(const std::shared_ptr<http::Exchange>& exchange) {
  const http::Request& request = exchange->request();
  const runtime::RequestFaultScope fault(service_.failing_step(request));
  runtime::reach(runtime::RequestStep::kHandle);
  if (auto refusal = check_head(request)) return exchange->respond(std::move(*refusal));
  const Entry* entry = find(request.path);
  if (entry == nullptr) {
    return refuse(*exchange, {.status = 404,
                              .message = "there is nothing at this path; /openapi.json says what "
                                         "there is",
                              .param = {},
                              .code = "not_found"});
  }
  const bool is_get = entry->route.method == "GET";
  if (request.method != entry->route.method && !(is_get && request.method == "HEAD")) {
    return refuse(*exchange,
                  {.status = 405,
                   .message = fmt::format("{} takes {}", request.path, entry->route.method),
                   .param = {},
                   .code = "method_not_allowed"},
                  entry->route.method);
  }
  const std::string_view type = request.header("content-type");
  const bool is_json =
      http::lower_case(http::trimmed(type.substr(0, type.find(';')))) == "application/json";
  // A page of another site can make a browser post texts and forms here, but not JSON.
  if (!is_get && !request.body.empty() && !is_json) {
    return refuse(*exchange, {.status = 415,
                              .message = "expected \"Content-Type: application/json\"",
                              .param = {},
                              .code = "unsupported_media_type"});
  }
  const std::string_view coding = request.header("content-encoding");
  if (!coding.empty() && coding != "identity") {
    return refuse(*exchange, {.status = 415,
                              .message = "a body is not read here with a Content-Encoding",
                              .param = {},
                              .code = "unsupported_media_type"});
  }
  entry->handler(exchange);
}

/// What is not one of the routes' own answers.
void Api::refuse(http::Exchange& exchange, const ApiError& error, std::string_view allow) {
  http::Response response = error_response(error);
  if (!allow.empty()) response.headers.push_back({"Allow", std::string(allow)});
  service_.respond(exchange, "none", std::move(response));
}

ordered_json Api::describe_model() const {
  return {{"id", model_->id},
          {"object", "model"},
          {"created", model_->created_s},
          {"owned_by", "fourfold"},
          {"root", model_->root},
          {"parent", nullptr},
          {"max_model_len", model_->context}};
}

http::Response Api::models() const {
  return json_response({{"object", "list"}, {"data", ordered_json::array({describe_model()})}});
}

void Api::answer_model(http::Exchange& exchange) {
  const std::string id = http::percent_decoded(exchange.request().path.substr(kModels.size()));
  if (id == model_->id) {
    return service_.respond(exchange, kOneModel, json_response(describe_model()));
  }
  refuse(exchange, {.status = 404,
                    .message = fmt::format("there is no model {} here, only \"{}\"",
                                           shown(json(id)), model_->id),
                    .param = "model",
                    .code = "model_not_found"});
}

/// A group that stands still is ended within seconds, so it is enough to ask which groups live.
http::Response Api::health() const {
  ordered_json groups = ordered_json::array();
  bool any = false;
  for (const runtime::GroupStatus& status : cluster_.status()) {
    any = any || status.failure.empty();
    groups.push_back({{"alive", status.failure.empty()},
                      {"failure", status.failure},
                      {"previous_failure", status.previous_failure},
                      {"restarts", status.restarts},
                      {"steps", status.stats.steps},
                      {"without_step_s", static_cast<double>(status.without_step_ns) * 1e-9}});
  }
  return json_response({{"status", any ? "ok" : "failed"}, {"groups", groups}}, any ? 200 : 503);
}

http::Response Api::ready() const {
  const std::vector<runtime::GroupStatus> groups = cluster_.status();
  const bool alive = std::any_of(groups.begin(), groups.end(),
                                 [](const auto& group) { return group.failure.empty(); });
  const char* status = draining_ ? "draining" : alive ? "ready" : "failed";
  return json_response({{"status", status}}, alive && !draining_ ? 200 : 503);
}

http::Response Api::metrics() const {
  const Metrics::Moment moment{.model = model_->id,
                               .groups = cluster_.status(),
                               .preparing = service_.preparing(),
                               .connections = server_.connections(),
                               .block_size = cluster_.limits().block_size};
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8",
          .body = service_.metrics().page(moment),
          .headers = {}};
}

/// Reads a request for one of the small endpoints; `answer` gets headers that it should have.
std::optional<ApiError> Api::read_small(const http::Request& request, Endpoint endpoint,
                                        Fields* out, http::Response* answer) const {
  json body;
  if (auto error = parse_body(request.body, &body)) return error;
  if (auto error = Fields::read(endpoint, std::move(body), out)) return error;
  if (auto error = service_.unknown_fields().check(out->unknown(), &answer->headers)) return error;
  return check_model(*out, *model_);
}

http::Response Api::tokenize(const http::Request& request) const {
  Fields fields;
  http::Response answer;
  if (auto error = read_small(request, Endpoint::kTokenize, &fields, &answer)) {
    return error_response(*error);
  }
  const json* prompt = fields.find("prompt");
  if ((prompt != nullptr) == (fields.find("messages") != nullptr)) {
    return error_response(field_error("prompt", "expected either prompt or messages"));
  }
  std::vector<engine::TokenId> tokens;
  if (prompt != nullptr) {
    const bool add_special = fields.boolean("add_special_tokens");
    if (auto error = encode_text(*prompt, add_special, *model_, &tokens)) {
      return error_response(*error);
    }
  } else if (auto error = encode_chat(request.body, fields, *model_, &tokens)) {
    return error_response(*error);
  }
  ordered_json out = {
      {"count", tokens.size()}, {"max_model_len", model_->context}, {"tokens", tokens}};
  if (fields.boolean("return_token_strs")) {
    ordered_json pieces = ordered_json::array();
    for (const engine::TokenId token : tokens) {
      pieces.push_back(std::string(model_->tokenizer.token_piece(token)));
    }
    out["token_strs"] = std::move(pieces);
  }
  return json_response(out, 200, std::move(answer));
}

http::Response Api::detokenize(const http::Request& request) const {
  Fields fields;
  http::Response answer;
  if (auto error = read_small(request, Endpoint::kDetokenize, &fields, &answer)) {
    return error_response(*error);
  }
  const auto tokens = fields.find("tokens")->get<std::vector<engine::TokenId>>();
  for (const engine::TokenId token : tokens) {
    if (auto error = check_token("tokens", token, *model_)) return error_response(*error);
  }
  const std::string text = model_->tokenizer.decode(tokens, /*skip_special=*/false);
  return json_response({{"prompt", text}}, 200, std::move(answer));
}

}  // namespace fourfold::serve
