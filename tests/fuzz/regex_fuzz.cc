// A pattern in the dialect of tokenizer.json, then after a zero byte a text.
#include "tests/fuzz/fuzz_target.h"
#include "text/regex.h"
#include "text/utf8.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  const std::string_view pattern = take_until(&input, '\0');
  const auto regex = text::Regex::compile(pattern);
  if (!regex.ok()) return;
  const std::string text = text::valid_utf8(input);
  std::vector<text::Span> matches;
  if (!regex->find_all(text, text::SearchBudget(std::ssize(text)), &matches).ok()) return;
  int64_t end = 0;
  for (const text::Span& match : matches) {
    CHECK(end <= match.begin && match.begin <= match.end && match.end <= std::ssize(text),
          "[{}, {}) after {} of {}", match.begin, match.end, end, text.size());
    const auto begins_character = [&](int64_t at) {
      return at == std::ssize(text) ||
             (static_cast<uint8_t>(text[static_cast<size_t>(at)]) & 0xC0) != 0x80;
    };
    CHECK(begins_character(match.begin) && begins_character(match.end), "[{}, {}) cuts a character",
          match.begin, match.end);
    end = match.end;
  }
}

}  // namespace fourfold::fuzz
