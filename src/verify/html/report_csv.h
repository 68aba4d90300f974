#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace fourfold::verify {

/// A report (docs/verify-json.md, schema 2) as a table (RFC 4180): one row a scheme and load point,
/// one row a scheme without any. The columns are always the same; each is named by the path of its
/// value within the scheme, or within the load point, with dots. Null is an empty field. Series are
/// left out.
std::string to_csv(const nlohmann::ordered_json& report);

}  // namespace fourfold::verify
