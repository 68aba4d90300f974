#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace fourfold::text {

/// The longest text that is tokenized: far more than any context window takes. Tokenizing needs up
/// to 40 times as much memory.
inline constexpr int64_t kMaxTextBytes = int64_t{16} << 20;
/// The longest text that a tokenizer's rewritings may make of one of `bytes`. A normal form makes
/// up to 11 times as much of a character.
constexpr int64_t max_rewritten_bytes(int64_t bytes) {
  return std::min(4 * kMaxTextBytes, (int64_t{1} << 16) + 16 * bytes);
}

/// What stands at the start of some bytes.
struct Utf8Step {
  enum class Kind {
    kCharacter,  ///< A well-formed character.
    kInvalid,    ///< A sequence that no further byte can make well-formed.
    kTruncated,  ///< The bytes end inside a character that further bytes could complete.
  };
  Kind kind;
  int length;           ///< Bytes that the character or the bad sequence takes; at least 1.
  char32_t code_point;  ///< U+FFFD unless kCharacter.
};

/// Reads one step from `bytes`, which must not be empty. An invalid sequence is a "maximal subpart"
/// (Unicode 15, section 3.9, and the WHATWG decoder), so replacing each by one U+FFFD gives what
/// Python's `bytes.decode("utf-8", errors="replace")` gives.
Utf8Step utf8_step(std::string_view bytes);

/// Appends `bytes` to `out` with each invalid sequence replaced by U+FFFD, and returns how many
/// bytes it took: all, or with `more_follows` all but a character that is not complete yet.
int64_t append_valid_utf8(std::string_view bytes, bool more_follows, std::string* out);

/// `bytes` with each invalid sequence replaced by U+FFFD.
std::string valid_utf8(std::string_view bytes);

/// Code points of valid UTF-8.
inline int64_t characters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(),
                       [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

/// Appends the UTF-8 form of a code point that is not a surrogate.
void append_code_point(char32_t code_point, std::string* out);

/// `text` with every `from` (not empty) replaced by `to`, left to right.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace fourfold::text
