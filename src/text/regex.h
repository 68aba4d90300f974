#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct pcre2_real_code_8;

namespace fourfold::text {

/// Byte range of a text.
struct Span {
  int64_t begin;
  int64_t end;
  bool operator==(const Span&) const = default;
};

/// The processor time that the searches in one text may take together: what the slowest patterns of
/// real tokenizers take on ordinary text, many times over. Backtracking takes more than linear time
/// with some patterns on some texts, and PCRE2's own limits do not bound that.
class SearchBudget {
 public:
  explicit SearchBudget(int64_t text_bytes);

  /// Whether it is used up.
  bool is_spent() const;
  double seconds() const { return seconds_; }

 private:
  double seconds_;
  double end_;         ///< Of this thread's processor time.
  double wall_begin_;  ///< Reading this clock is cheap, and it runs no slower than the other.
};

/// A compiled regular expression over UTF-8, immutable and shared between threads.
class Regex {
 public:
  /// `pattern` in the dialect that tokenizer.json is written in: Oniguruma's, of which only the
  /// part is accepted that can be given exactly the same meaning here. Everything else (nested
  /// classes, back references, \b, \h, ...) is an error that names it.
  static base::Result<Regex> compile(std::string_view pattern);

  /// Matches exactly `literal`, which must not be empty.
  static base::Result<Regex> literal(std::string_view literal);

  /// All matches in `text` from left to right, written over `matches`. `text` is valid UTF-8. A
  /// match may be empty, but not directly behind the match before it. An error if the search takes
  /// more steps or memory than PCRE2 is allowed, or what is left of the budget.
  base::Status find_all(std::string_view text, const SearchBudget& budget,
                        std::vector<Span>* matches) const;

 private:
  static base::Result<Regex> compile_pcre2(std::string_view pcre2, uint32_t options,
                                           std::string_view source);

  std::shared_ptr<const pcre2_real_code_8> code_;
  std::string source_;
};

/// What Rust's regular expressions, which parts of the Hugging Face tokenizers use instead, call
/// \w.
inline constexpr std::string_view kRustWordClass =
    R"([\p{L}\p{M}\p{Nl}\p{Nd}\p{Pc}\x{200C}\x{200D}\x{24B6}-\x{24E9})"
    R"(\x{1F130}-\x{1F149}\x{1F150}-\x{1F169}\x{1F170}-\x{1F189}])";

/// The PCRE2 (UTF, UCP, MULTILINE) form of an Oniguruma pattern. Public for its test.
base::Result<std::string> translate_regex(std::string_view pattern);

}  // namespace fourfold::text
