#pragma once

#include "base/result.h"
#include "text/json.h"
#include "text/regex.h"

namespace fourfold::text {

/// A "pattern" of tokenizer.json: {"String": ...} or {"Regex": ...}.
base::Result<Regex> parse_pattern(const JsonNode& json);

}  // namespace fourfold::text
