#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/json.h"
#include "text/merge.h"
#include "text/piece_index.h"

namespace fourfold::text {

/// The "model" of tokenizer.json, type BPE (Sennrich et al., "Neural Machine Translation of Rare
/// Words with Subword Units", 2016): merges the characters of a word pair by pair, the pair that
/// was learnt first before all others.
class Bpe {
 public:
  static base::Result<Bpe> create(const JsonNode& json);

  /// Appends the ids of one word, valid UTF-8. Characters outside the vocabulary become byte tokens
  /// or the unknown token where the model has them, else nothing.
  void encode(std::string_view word, MergeScratch* scratch, std::vector<int32_t>* ids) const;

  /// The id of one of the model's tokens.
  std::optional<int32_t> find(std::string_view piece) const { return ids_.find(piece); }

  /// The model's tokens; added tokens are not among them.
  const std::vector<std::pair<std::string, int32_t>>& pieces() const { return pieces_; }

 private:
  struct PairHash {
    size_t operator()(uint64_t pair) const;
  };

  static uint64_t pair_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }
  base::Status read_vocabulary(const JsonNode& json);
  base::Status read_merges(const JsonNode& json);
  base::Status read_options(const JsonNode& json);
  bool add_bytes(std::string_view character, int32_t begin, MergeScratch* scratch) const;

  std::vector<std::pair<std::string, int32_t>> pieces_;
  PieceIndex ids_;
  std::unordered_map<uint64_t, Merge, PairHash> merges_;
  std::optional<int32_t> unknown_;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;  ///< A word that is a token is not taken apart.
};

}  // namespace fourfold::text
