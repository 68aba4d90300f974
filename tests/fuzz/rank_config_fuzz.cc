#include "base/check.h"
#include "runtime/control/rank_config_json.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  const auto config = runtime::rank_config_from_json(input);
  if (!config.ok()) return;
  const std::string text = runtime::to_json(*config);
  const auto again = runtime::rank_config_from_json(text);
  CHECK(again.ok() && runtime::to_json(*again) == text, "{} does not come back", text);
}

}  // namespace fourfold::fuzz
