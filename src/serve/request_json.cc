#include "serve/request_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "files/json.h"
#include "runtime/request_fault.h"

namespace fourfold::serve {

using nlohmann::json;
using nlohmann::ordered_json;

namespace {

constexpr size_t kMostMembers = 1024;
constexpr files::JsonLimits kLimits{.max_values = 1'000'000};

size_t most_members(const json& value) {
  size_t most = value.is_object() ? value.size() : 0;
  if (value.is_structured()) {
    for (const json& part : value) most = std::max(most, most_members(part));
  }
  return most;
}

}  // namespace

std::optional<ApiError> parse_body(std::string_view body, json* out) {
  runtime::reach(runtime::RequestStep::kParse);
  base::Result<json> parsed = files::parse_json(body, "the request", kLimits);
  if (!parsed.ok()) {
    return ApiError{.message = parsed.error().message, .param = {}, .code = "invalid_json"};
  }
  *out = std::move(parsed).value();
  return std::nullopt;
}

std::optional<ApiError> parse_ordered(std::string_view text, std::string_view field,
                                      ordered_json* out) {
  runtime::reach(runtime::RequestStep::kParseOrdered);
  const base::Result<json> parsed =
      files::parse_json(text, field.empty() ? "the request" : field, kLimits);
  ApiError error{.message = {}, .param = std::string(field), .code = {}};
  if (!parsed.ok()) {
    error.message = parsed.error().message;
    return error;
  }
  if (most_members(*parsed) > kMostMembers) {
    error.message = fmt::format("an object of more than {} members", kMostMembers);
    return error;
  }
  *out = ordered_json::parse(text);
  return std::nullopt;
}

}  // namespace fourfold::serve
