#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/piece_index.h"

namespace fourfold::text {

/// What a decoder does to the first token of a text, beyond joining the bytes of all.
struct TextStart {
  std::string strip;        ///< A character, removed from the front of the text ...
  int64_t strip_count = 0;  ///< ... at most this often.
  std::string drop;         ///< Removed wherever it stands in the first token's piece.
};

/// The tokens of a tokenizer by id. Ids may have gaps; a gap stands for no text.
class Vocabulary {
 public:
  /// More ids than any known model has, fewer than would hurt.
  static constexpr int64_t kMaxIds = int64_t{1} << 22;

  /// For `tokens` tokens, all but a few of which will be added. The table goes up to the largest
  /// id, so the ids may have gaps, but a few tokens no ids as of millions.
  explicit Vocabulary(int64_t tokens)
      : max_ids_(std::min(kMaxIds, (int64_t{1} << 16) + 4 * tokens)) {}

  /// Adds a token: its `piece` is how the vocabulary spells it, `bytes` the text it stands for. An
  /// error if the id is out of range or another piece has it. A piece that is there twice is found
  /// under its first id.
  base::Status add(int32_t id, std::string piece, std::string bytes, bool special);

  /// One past the largest id.
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  bool has(int32_t id) const { return id >= 0 && id < size() && at(id).present; }
  bool is_special(int32_t id) const { return has(id) && at(id).special; }
  std::string_view piece(int32_t id) const { return has(id) ? at(id).piece : std::string_view(); }
  std::string_view bytes(int32_t id) const { return has(id) ? at(id).bytes : std::string_view(); }
  std::optional<int32_t> find(std::string_view piece) const { return ids_.find(piece); }

  TextStart text_start;
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;
  std::vector<int32_t> prefix;  ///< Ids that add_special puts before a text ...
  std::vector<int32_t> suffix;  ///< ... and behind it.

 private:
  struct Token {
    std::string piece;
    std::string bytes;
    bool present = false;
    bool special = false;
  };
  const Token& at(int32_t id) const { return tokens_[static_cast<size_t>(id)]; }

  int64_t max_ids_;
  std::vector<Token> tokens_;
  PieceIndex ids_;
};

}  // namespace fourfold::text
