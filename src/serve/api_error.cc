#include "serve/api_error.h"

#include <nlohmann/json.hpp>

namespace fourfold::serve {
namespace {

/// OpenAI's word for a kind of error.
const char* type_of(int status) {
  if (status == 429) return "rate_limit_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}

}  // namespace

std::string error_json(const ApiError& error) {
  const auto or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(text);
  };
  return nlohmann::ordered_json{{"error",
                                 {{"message", error.message},
                                  {"type", type_of(error.status)},
                                  {"param", or_null(error.param)},
                                  {"code", or_null(error.code)}}}}
      .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

http::Response error_response(const ApiError& error) {
  http::Response out{.status = error.status,
                     .content_type = "application/json",
                     .body = error_json(error),
                     .headers = {}};
  if (error.status == 401) out.headers.push_back({"WWW-Authenticate", "Bearer"});
  if (error.retry_after_s > 0) {
    out.headers.push_back({"Retry-After", std::to_string(error.retry_after_s)});
  }
  return out;
}

}  // namespace fourfold::serve
