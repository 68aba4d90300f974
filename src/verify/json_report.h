#pragma once

#include <nlohmann/json.hpp>

#include "verify/result.h"

namespace fourfold::verify {

/// The JSON of docs/verify-json.md.
nlohmann::ordered_json to_json(const VerifyReport& report);

}  // namespace fourfold::verify
