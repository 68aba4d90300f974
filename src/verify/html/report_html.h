#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"

namespace fourfold::verify {

/// A report (docs/verify-json.md, schema 2) as one HTML file: it asks nothing of any network, opens
/// from disk, and holds the table of to_csv() for saving. Every
/// number shown is one of the report's. Strings of the report may be hostile. Errors: not an object
/// of that schema.
base::Result<std::string> to_html(const nlohmann::ordered_json& report);

}  // namespace fourfold::verify
