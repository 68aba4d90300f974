#pragma once

#include <string_view>
#include <vector>

#include "base/check.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace fourfold::fuzz {

/// What must hold of any tokenizer that was accepted: ids of a text are of the vocabulary, ids
/// decode to valid UTF-8, and a stream of them to the same text.
inline void check_tokenizer(const text::Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text, /*add_special=*/true);
  if (!ids.ok()) return;  // A regular expression that takes too many steps.
  for (const int32_t id : *ids) {
    CHECK(id >= 0 && id < tokenizer.vocab_size(), "the id {} of {}", id, tokenizer.vocab_size());
  }
  for (const bool skip_special : {false, true}) {
    const std::string decoded = tokenizer.decode(*ids, skip_special);
    CHECK(text::valid_utf8(decoded) == decoded, "{} ids decode to no text", ids->size());
    text::IncrementalDetokenizer stream(tokenizer, {.skip_special = skip_special});
    std::string pieces;
    for (const int32_t id : *ids) pieces += stream.push(id);
    CHECK(pieces + stream.flush() == decoded, "a stream of {} ids differs", ids->size());
  }
  // Ids that no text gave, gaps and ids outside among them.
  const auto size = static_cast<int32_t>(tokenizer.vocab_size());
  const std::vector<int32_t> any = {-1, 0, 1, size / 2, size - 1, size, INT32_MAX, INT32_MIN};
  const std::string decoded = tokenizer.decode(any, /*skip_special=*/false);
  CHECK(text::valid_utf8(decoded) == decoded, "ids at random decode to no text");
}

}  // namespace fourfold::fuzz
