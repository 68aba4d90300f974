#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "text/json.h"
#include "text/regex.h"

namespace fourfold::text {

/// The "normalizer" of tokenizer.json: a chain of rewritings of the text.
class Normalizer {
 public:
  /// Changes nothing.
  Normalizer() = default;

  /// Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace. Others are an error. Lowercase is
  /// that of Unicode 15.
  static base::Result<Normalizer> create(const JsonNode& json);

  /// Rewrites `text`, valid UTF-8. An error if it would grow beyond `max_rewritten_bytes` or takes
  /// more time than `budget` has.
  base::Status apply(const SearchBudget& budget, std::string* text) const;

 private:
  struct UnicodeForm {
    bool compose;
    bool compatibility;
  };
  struct Lowercase {};
  struct Prepend {
    std::string prefix;
  };
  struct Replace {
    Regex pattern;
    std::string content;
  };
  using Step = std::variant<UnicodeForm, Lowercase, Prepend, Replace>;

  static base::Status add_steps(const JsonNode& json, std::vector<Step>* steps);

  std::vector<Step> steps_;
};

}  // namespace fourfold::text
