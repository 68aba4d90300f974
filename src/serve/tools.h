#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "serve/api_error.h"
#include "serve/fields.h"
#include "serve/generation_request.h"
#include "serve/served_model.h"

namespace fourfold::serve {

/// The functions of "tools" for the chat template; null if there are none. `body`: the request,
/// with members in its order. Errors: what is no function; a template that takes none.
std::optional<ApiError> read_tools(const Fields& fields, const nlohmann::ordered_json& body,
                                   const ServedModel& model, nlohmann::ordered_json* tools);

/// How the answer may call them, by tool_choice: sets the request's format of calls and, where a
/// call is asked for, its constraint.
std::optional<ApiError> read_tool_choice(const Fields& fields, const nlohmann::ordered_json& tools,
                                         const ServedModel& model, GenerationRequest* out);

/// Makes arguments of earlier calls, which OpenAI has as JSON in a string, the objects that
/// templates expect.
std::optional<ApiError> read_earlier_calls(nlohmann::ordered_json& message, size_t index);

}  // namespace fourfold::serve
