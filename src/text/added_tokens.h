#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "text/json.h"
#include "text/normalizer.h"
#include "text/prefix_matcher.h"
#include "text/regex.h"

namespace fourfold::text {

/// One of the "added_tokens": a string that is one token wherever it stands in a text.
struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;
  bool normalized = false;   ///< Searched in the normalized text, not in the text as it is.
  bool single_word = false;  ///< Only between characters that are not of a word.
  bool lstrip = false;       ///< Takes the white space in front of it along.
  bool rstrip = false;       ///< Takes the white space behind it along.
};

/// The "added_tokens" of tokenizer.json and those of the config's "added_tokens_decoder" whose
/// content is not among them.
base::Result<std::vector<AddedToken>> read_added_tokens(const JsonNode& tokenizer,
                                                        const JsonNode& config);

/// Finds added tokens in a text.
class AddedTokens {
 public:
  /// A stretch of text: an added token, or (id -1) not empty and without one.
  struct Section {
    std::string_view text;
    int32_t id = -1;
  };

  static base::Result<AddedTokens> create(const std::vector<AddedToken>& tokens,
                                          const Normalizer& normalizer);

  /// Cuts a text at the tokens that are searched before normalization.
  base::Result<std::vector<Section>> cut_raw(std::string_view text) const {
    return cut(raw_, text);
  }
  /// Cuts a normalized text at the tokens that are searched after normalization.
  base::Result<std::vector<Section>> cut_normalized(std::string_view text) const {
    return cut(normalized_, text);
  }

 private:
  explicit AddedTokens(Regex word) : word_(std::move(word)) {}

  base::Result<std::vector<Section>> cut(const PrefixMatcher& matcher, std::string_view text) const;
  base::Result<bool> is_word(std::string_view character) const;

  Regex word_;  ///< Matches a character of a word.
  PrefixMatcher raw_;
  PrefixMatcher normalized_;
  std::unordered_map<int32_t, AddedToken> tokens_;
};

}  // namespace fourfold::text
