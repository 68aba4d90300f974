#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/version.h"
#include "serve/api.h"
#include "serve/fields.h"

namespace fourfold::serve {

using nlohmann::ordered_json;

namespace {

ordered_json list_of(ordered_json items) {
  return {{"type", "array"}, {"items", std::move(items)}};
}

const ordered_json kString = {{"type", "string"}};
const ordered_json kToken = {{"type", "integer"}, {"minimum", 0}};

ordered_json number_schema(const Field& field, const char* type) {
  ordered_json out = {{"type", type}};
  // Bounds of seeds are those of 64 bits, which JSON's readers round.
  if (field.least >= -0x1p53) out["minimum"] = field.least;
  if (field.most <= 0x1p53) out["maximum"] = field.most;
  return out;
}

ordered_json message_schema() {
  const ordered_json part = {{"type", "object"},
                             {"required", {"type", "text"}},
                             {"properties", {{"type", {{"const", "text"}}}, {"text", kString}}}};
  const ordered_json content = {{"anyOf", {kString, list_of(part), {{"type", "null"}}}}};
  return {{"type", "object"},
          {"required", {"role"}},
          {"properties", {{"role", kString}, {"content", content}}}};
}

ordered_json tool_schema() {
  const ordered_json function = {
      {"type", "object"},
      {"required", {"name"}},
      {"properties",
       {{"name", kString}, {"description", kString}, {"parameters", {{"type", "object"}}}}}};
  return {{"type", "object"},
          {"required", {"type", "function"}},
          {"properties", {{"type", {{"const", "function"}}}, {"function", function}}}};
}

ordered_json type_schema(const Field& field) {
  switch (field.type) {
    case FieldType::kBoolean:
      return {{"type", "boolean"}};
    case FieldType::kInteger:
      return number_schema(field, "integer");
    case FieldType::kNumber:
      return number_schema(field, "number");
    case FieldType::kString:
      return kString;
    case FieldType::kStrings: {
      ordered_json list = list_of(kString);
      list["maxItems"] = field.most;
      return {{"anyOf", {kString, list}}};
    }
    case FieldType::kTokens:
      return list_of(kToken);
    case FieldType::kPrompt:
      return {{"anyOf", {kString, list_of(kToken), list_of(kString), list_of(list_of(kToken))}}};
    case FieldType::kMessages:
      return list_of(message_schema());
    case FieldType::kBiases:
      return {{"type", "object"}, {"additionalProperties", number_schema(field, "number")}};
    case FieldType::kStreamOptions:
      return {{"type", "object"},
              {"properties", {{"include_usage", {{"type", "boolean"}}}}},
              {"additionalProperties", false}};
    case FieldType::kObject:
      return {{"type", "object"}};
    case FieldType::kSchema:
      return {{"type", {"object", "string", "boolean"}}};
    case FieldType::kTools:
      return list_of(tool_schema());
    case FieldType::kToolChoice:
      return {{"anyOf", {{{"enum", {"none", "auto", "required"}}}, {{"type", "object"}}}}};
    case FieldType::kNote:
      return ordered_json::object();
    case FieldType::kUnsupported:
      if (field.harmless.empty()) return {{"type", "null"}};
      return {{"enum", {ordered_json::parse(field.harmless)}}};
  }
  return {};
}

/// A field that may be null, as all may.
ordered_json field_schema(const Field& field) {
  ordered_json out = {{"description", field.help}};
  const ordered_json type = type_schema(field);
  if (!type.empty() && !field.required) {
    out["anyOf"] = {type, {{"type", "null"}}};
  } else {
    out.update(type);
  }
  if (!std::isnan(field.fallback)) {
    out["default"] = field.type == FieldType::kBoolean ? ordered_json(field.fallback != 0)
                                                       : ordered_json(field.fallback);
  }
  return out;
}

ordered_json request_schema(Endpoint endpoint) {
  ordered_json properties = ordered_json::object();
  ordered_json required = ordered_json::array();
  for (const Field& field : fields()) {
    if ((field.endpoints & in(endpoint)) == 0) continue;
    properties[std::string(field.name)] = field_schema(field);
    if (field.required) required.push_back(field.name);
  }
  return {{"type", "object"}, {"required", required}, {"properties", properties}};
}

const ordered_json kNullable = {{"type", {"string", "null"}}};
const ordered_json kInteger = {{"type", "integer"}};

ordered_json object(ordered_json properties) {
  ordered_json required = ordered_json::array();
  for (const auto& [name, schema] : properties.items()) required.push_back(name);
  return {{"type", "object"}, {"required", required}, {"properties", std::move(properties)}};
}

ordered_json error_schema() {
  return object({{"error", object({{"message", kString},
                                   {"type", kString},
                                   {"param", kNullable},
                                   {"code", kNullable}})}});
}

ordered_json generation_schema(bool chat) {
  const ordered_json any_object = {{"type", {"object", "null"}}};
  ordered_json choice = {{"index", kInteger}};
  if (chat) {
    choice["message"] = object({{"role", kString}, {"content", kNullable}, {"refusal", kNullable}});
    const ordered_json call =
        object({{"id", kString},
                {"type", kString},
                {"function", object({{"name", kString}, {"arguments", kString}})}});
    choice["message"]["properties"]["tool_calls"] = list_of(call);
  } else {
    choice["text"] = kString;
  }
  choice["logprobs"] = any_object;
  choice["finish_reason"] = {{"enum", {"stop", "length", "tool_calls"}}};
  return object({{"id", kString},
                 {"object", kString},
                 {"created", kInteger},
                 {"model", kString},
                 {"choices", list_of(object(choice))},
                 {"usage", object({{"prompt_tokens", kInteger},
                                   {"completion_tokens", kInteger},
                                   {"total_tokens", kInteger}})}});
}

ordered_json answer_schema(std::string_view path) {
  if (path == "/v1/completions") return generation_schema(/*chat=*/false);
  if (path == "/v1/chat/completions") return generation_schema(/*chat=*/true);
  if (path == "/v1/models")
    return object({{"object", kString}, {"data", list_of({{"type", "object"}})}});
  if (path == "/tokenize") {
    return object({{"count", kInteger}, {"max_model_len", kInteger}, {"tokens", list_of(kToken)}});
  }
  if (path == "/detokenize") return object({{"prompt", kString}});
  return {{"type", "object"}};
}

std::optional<Endpoint> endpoint_of(std::string_view path) {
  if (path == "/v1/completions") return Endpoint::kCompletions;
  if (path == "/v1/chat/completions") return Endpoint::kChat;
  if (path == "/tokenize") return Endpoint::kTokenize;
  if (path == "/detokenize") return Endpoint::kDetokenize;
  return std::nullopt;
}

ordered_json content(const char* type, ordered_json schema) {
  return {{type, {{"schema", std::move(schema)}}}};
}

/// Of a file of the page; null for what is none.
const char* page_type(std::string_view path) {
  if (path == "/") return "text/html";
  if (path == "/page.css") return "text/css";
  return path == "/page.js" ? "text/javascript" : nullptr;
}

ordered_json operation(const Route& route) {
  const auto failure = [](const char* description) {
    return ordered_json{{"description", description},
                        {"content", content("application/json", error_schema())}};
  };
  ordered_json ok = {{"description", "The answer"}};
  if (route.path == "/metrics") {
    ok["content"] = content("text/plain", kString);
  } else if (const char* type = page_type(route.path)) {
    ok["content"] = content(type, kString);
  } else {
    ok["content"] = content("application/json", answer_schema(route.path));
  }
  ordered_json out = {{"summary", route.help}};
  ordered_json responses = {{"200", ok}};
  if (route.path.ends_with("{model}")) {
    out["parameters"] = {
        {{"name", "model"}, {"in", "path"}, {"required", true}, {"schema", kString}}};
    responses["404"] = failure("Another model is served");
  }
  if (const std::optional<Endpoint> endpoint = endpoint_of(route.path)) {
    out["requestBody"] = {{"required", true},
                          {"content", content("application/json", request_schema(*endpoint))}};
    responses["400"] = failure("The request makes no sense; the field is named");
    responses["404"] = failure("Another model is served");
    responses["413"] = {{"description", "The body is too large"}};
    responses["415"] = failure("The body is no JSON");
    if (*endpoint == Endpoint::kCompletions || *endpoint == Endpoint::kChat) {
      ok["content"]["text/event-stream"] = {{"schema", kString}};
      responses["200"] = ok;
      responses["500"] = failure("Ranks crash with this request");
      responses["503"] = failure("Too many requests wait");
    }
  }
  if (route.path == "/health" || route.path == "/ready") {
    responses["503"] = {{"description", "Not so"},
                        {"content", content("application/json", {{"type", "object"}})}};
  }
  if (route.open) {
    out["security"] = ordered_json::array();
  } else {
    responses["401"] = failure("No valid key");
  }
  out["responses"] = std::move(responses);
  return out;
}

}  // namespace

std::string openapi_json(const std::string& model) {
  ordered_json paths = ordered_json::object();
  for (const Route& route : routes()) {
    const char* method = route.method == "GET" ? "get" : "post";
    paths[std::string(route.path)] = {{method, operation(route)}};
  }
  return ordered_json{
      {"openapi", "3.1.0"},
      {"info",
       {{"title", "fourfold"},
        {"version", base::version()},
        {"description", "OpenAI's API for the model " + model}}},
      {"components", {{"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}}}},
      {"security", {{{"key", ordered_json::array()}}}},
      {"paths", paths}}
      .dump();
}

}  // namespace fourfold::serve
