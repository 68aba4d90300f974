#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/strong_id.h"
#include "engine/ids.h"

namespace fourfold::engine {

/// Stands for the exact tokens of a published prefix, from the first position on. Never reused, so
/// two prefixes with one id are the same tokens.
using PrefixId = base::StrongId<struct PrefixTag>;
inline constexpr PrefixId kEmptyPrefix{0};

/// Hash of a block's tokens behind a prefix. Collisions cost hits, never answers.
using BlockHash = uint64_t (*)(PrefixId parent, std::span<const TokenId> tokens);
/// XXH3-64, seeded with the parent.
uint64_t hash_block(PrefixId parent, std::span<const TokenId> tokens);

/// Finds full KV blocks by the tokens that they and all blocks before them hold. The chain of
/// hashes runs over PrefixIds instead of the parents' hashes: parent and tokens are compared on a
/// hit, which makes a hit exact by induction.
class PrefixIndex {
 public:
  PrefixIndex(int64_t blocks, int32_t block_size, BlockHash hash);

  /// The block that holds `tokens` (block_size of them) behind `parent`.
  std::optional<BlockId> find(PrefixId parent, std::span<const TokenId> tokens) const;
  /// Makes a computed block findable and returns the prefix that ends with it. If another block has
  /// that content already, it stays the one that is found.
  PrefixId publish(BlockId block, PrefixId parent, std::span<const TokenId> tokens);
  /// The prefix that ends with a published block.
  PrefixId prefix(BlockId block) const { return entry(block).prefix; }
  bool contains(BlockId block) const { return entry(block).prefix.valid(); }
  /// The block will be overwritten. No effect if it is not published.
  void forget(BlockId block);
  void clear();

 private:
  struct Entry {
    PrefixId prefix;  ///< invalid: not published
    PrefixId parent;
    uint64_t hash = 0;
  };

  Entry& entry(BlockId block) { return entries_[static_cast<size_t>(block.value)]; }
  const Entry& entry(BlockId block) const { return entries_[static_cast<size_t>(block.value)]; }
  bool holds(BlockId block, PrefixId parent, std::span<const TokenId> tokens) const;

  int32_t block_size_;
  BlockHash hash_;
  std::vector<Entry> entries_;
  std::vector<TokenId> tokens_;  ///< [blocks][block_size]
  std::unordered_map<uint64_t, BlockId> blocks_;
  PrefixId newest_ = kEmptyPrefix;
};

}  // namespace fourfold::engine
