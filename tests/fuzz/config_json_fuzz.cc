// config.json through every family, whatever architecture it names.
#include "files/json.h"
#include "model/families/family.h"
#include "tests/fuzz/check_spec.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  const auto config = files::parse_json(input, "config.json");
  if (!config.ok() || !config->is_object()) return;
  for (const model::Family* family : model::families()) {
    const auto spec = family->from_config(*config);
    if (spec.ok()) check_spec(*spec);
  }
}

}  // namespace fourfold::fuzz
