// config.json through every family, whatever architecture it names; one of very many matrices, of
// which each family makes a long list, through the first that accepts it.
#include "files/json.h"
#include "model/families/family.h"
#include "tests/fuzz/check_spec.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {

constexpr int64_t kManyMatrices = 20000;

void check_input(std::string_view input) {
  const auto config = files::parse_json(input, "config.json");
  if (!config.ok() || !config->is_object()) return;
  for (const model::Family* family : model::families()) {
    const auto spec = family->from_config(*config);
    if (!spec.ok()) continue;
    check_spec(*spec);
    if (std::ssize(spec->params) > kManyMatrices) return;
  }
}

}  // namespace fourfold::fuzz
