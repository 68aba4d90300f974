#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// RankConfig as JSON text, every field written out, and back. Errors name the key that is missing,
/// of the wrong type or out of its range.
std::string to_json(const RankConfig& config);
base::Result<RankConfig> rank_config_from_json(std::string_view text);

}  // namespace fourfold::runtime
