// A regular expression that answers are constrained to, then after a zero byte what chooses a text:
// reading never gets stuck, and what the expression's own edges spell belongs to it.
#include "grammar/json_schema.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/spell.h"
#include "text/utf8.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  const std::string_view pattern = take_until(&input, '\0');
  auto graph = grammar::regex_graph(pattern);
  if (!graph.ok()) return;
  const std::string text = spell(std::move(graph).value(), input);
  CHECK(text::valid_utf8(text) == text, "no UTF-8");
}

}  // namespace fourfold::fuzz
