// tokenizer.json, then after a zero byte a text, then after another tokenizer_config.json.
#include "tests/fuzz/check_tokenizer.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  const std::string_view tokenizer_json = take_until(&input, '\0');
  const std::string_view text = take_until(&input, '\0');
  const auto tokenizer = text::tokenizer_from_json(tokenizer_json, input);
  if (!tokenizer.ok()) {
    CHECK(!tokenizer.error().message.empty(), "an error says something");
    return;
  }
  check_tokenizer(*tokenizer, text);
  check_tokenizer(*tokenizer, " Hello,  w\xc3\xb6rld 2024!\n\xe4\xb8\xad\xff<s>");
}

}  // namespace fourfold::fuzz
