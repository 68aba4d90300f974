#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fourfold::model {

/// The config.json of an architecture whose weights are not at hand, by preset name or hub id (case
/// does not matter). Sizes as published with the models.
std::optional<nlohmann::json> preset_config(std::string_view name);

/// The preset names, in order of size.
std::vector<std::string> preset_names();

}  // namespace fourfold::model
