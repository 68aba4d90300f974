#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "text/json.h"
#include "text/regex.h"

namespace fourfold::text {

/// A text cut into words. Ranges are in order and not empty; bytes between them were removed.
struct Words {
  struct Range {
    int64_t begin;
    int64_t end;
    bool at_text_start;  ///< The word begins where the whole input began.
  };
  std::string text;
  std::vector<Range> ranges;

  std::string_view at(const Range& range) const {
    return std::string_view(text).substr(static_cast<size_t>(range.begin),
                                         static_cast<size_t>(range.end - range.begin));
  }
};

/// The "pre_tokenizer" of tokenizer.json: cuts the text into the words that the model merges
/// within.
class PreTokenizer {
 public:
  /// One word: the whole text.
  PreTokenizer() = default;

  /// Sequence, ByteLevel, Split, Digits, Punctuation, Metaspace, Whitespace, WhitespaceSplit.
  /// Others are an error.
  static base::Result<PreTokenizer> create(const JsonNode& json);

  /// Cuts and rewrites `words` in place. An error if the text would grow beyond
  /// `max_rewritten_bytes` or takes more time than `budget` has.
  base::Status apply(const SearchBudget& budget, Words* words) const;

 private:
  /// What becomes of a delimiter.
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  /// A stretch of a word that is a delimiter or lies between two.
  struct Stretch {
    int64_t begin;
    int64_t end;
    bool is_delimiter;
  };
  struct Split {
    Regex pattern;
    Behavior behavior;
    bool invert;  ///< What the pattern does not match is the delimiter.
  };
  struct PrefixSpace {};  ///< A space before words that do not begin with one.
  struct ByteLetters {};  ///< Bytes written in the byte alphabet.
  struct Metaspace {
    enum class Prepend { kAlways, kFirst, kNever };
    std::string replacement;
    Prepend prepend;
  };
  using Step = std::variant<Split, PrefixSpace, ByteLetters, Metaspace>;

  static base::Status add_steps(const JsonNode& json, std::vector<Step>* steps);
  static base::Status add_byte_level(const JsonNode& json, std::vector<Step>* steps);
  static base::Status add_metaspace(const JsonNode& json, std::vector<Step>* steps);
  static base::Status add_split(const JsonNode& json, std::vector<Step>* steps);
  static base::Result<Behavior> parse_behavior(const JsonNode& json);
  static void treat_delimiters(Behavior behavior, std::vector<Stretch>* stretches);
  static base::Status split(const Split& step, const SearchBudget& budget, Words* words);

  std::vector<Step> steps_;
};

}  // namespace fourfold::text
