#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "serve/api_error.h"

namespace fourfold::serve {

/// JSON that a request may be: 32 MiB are the server's limit already.
std::optional<ApiError> parse_body(std::string_view body, nlohmann::json* out);

/// JSON whose objects keep the order of their members, as templates and schemas need it, and have
/// at most 1024 of them: finding one takes as long as there are many. `field`: what an error names;
/// "": the whole request.
std::optional<ApiError> parse_ordered(std::string_view text, std::string_view field,
                                      nlohmann::ordered_json* out);

}  // namespace fourfold::serve
