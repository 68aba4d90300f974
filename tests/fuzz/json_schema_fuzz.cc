// A JSON schema, then after a zero byte what chooses a text that agrees with it.
#include <nlohmann/json.hpp>

#include "files/json.h"
#include "grammar/json_schema.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/spell.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  const std::string_view text = take_until(&input, '\0');
  if (!files::parse_json(text, "the schema").ok()) return;
  auto graph = grammar::schema_graph(nlohmann::ordered_json::parse(text));
  if (!graph.ok()) return;
  const std::string value = spell(std::move(graph).value(), input);
  CHECK(value.empty() || nlohmann::json::accept(value), "no JSON: {}", value);
}

}  // namespace fourfold::fuzz
