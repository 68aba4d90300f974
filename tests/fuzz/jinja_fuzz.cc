// A chat template, rendered with a few messages.
#include <nlohmann/json.hpp>

#include "jinja/template.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  static const jinja::Value kNames = jinja::from_json(nlohmann::ordered_json::parse(R"({
      "messages": [{"role": "system", "content": "Be \u00e4 brief"},
                   {"role": "user", "content": " Hi "},
                   {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}]}],
      "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [1, 2.5, true]}}}],
      "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true})"));
  const jinja::Template::Limits limits{.steps = 20'000, .bytes = 1 << 20};
  const auto parsed = jinja::Template::parse(input, limits);
  if (!parsed.ok()) return;
  const auto text = parsed->render(kNames.dict(), /*now_unix_s=*/1'700'000'000);
  CHECK(!text.ok() || std::ssize(*text) <= limits.bytes, "{} bytes of text", text->size());
}

}  // namespace fourfold::fuzz
