#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"
#include "mesh/placement.h"

namespace fourfold::runtime {

/// "linear", "round_robin", or the name of a JSON file {"experts": [[ids of shard 0], [ids of shard
/// 1], ...]}. Whether it fits a model and a scheme mesh::Mesh::create says.
base::Result<mesh::ExpertPlacement> read_expert_placement(const std::string& value);

/// A placement inside another JSON text: "linear", "round_robin" or the lists. `what` names the
/// text in errors.
nlohmann::json placement_to_json(const mesh::ExpertPlacement& placement);
base::Result<mesh::ExpertPlacement> placement_from_json(const nlohmann::json& value,
                                                        std::string_view what);

}  // namespace fourfold::runtime
