#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "serve/api_error.h"
#include "serve/constraints.h"
#include "serve/fields.h"

namespace fourfold::serve {

/// True if a field asks for answers of a given form.
bool asks_for_form(const Fields& fields);

/// What the answers of a request are constrained to by response_format, structured_outputs or
/// guided_*; null if by none. `body`: the request, with members in its order. Errors name the
/// field: two of them, or one that cannot be followed.
std::optional<ApiError> read_form(const Fields& fields, const nlohmann::ordered_json& body,
                                  Constraints& constraints, Constraints::Pointer* out);

}  // namespace fourfold::serve
