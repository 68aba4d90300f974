#include "engine/prefix_index.h"

#include <xxhash.h>

#include <algorithm>

#include "base/check.h"

namespace fourfold::engine {

uint64_t hash_block(PrefixId parent, std::span<const TokenId> tokens) {
  return XXH3_64bits_withSeed(tokens.data(), tokens.size_bytes(),
                              static_cast<uint64_t>(parent.value));
}

PrefixIndex::PrefixIndex(int64_t blocks, int32_t block_size, BlockHash hash)
    : block_size_(block_size),
      hash_(hash),
      entries_(static_cast<size_t>(blocks)),
      tokens_(static_cast<size_t>(blocks * block_size)) {}

bool PrefixIndex::holds(BlockId block, PrefixId parent, std::span<const TokenId> tokens) const {
  const auto first = static_cast<size_t>(int64_t{block.value} * block_size_);
  return entry(block).parent == parent &&
         std::equal(tokens.begin(), tokens.end(),
                    tokens_.begin() + static_cast<std::ptrdiff_t>(first));
}

std::optional<BlockId> PrefixIndex::find(PrefixId parent, std::span<const TokenId> tokens) const {
  const auto it = blocks_.find(hash_(parent, tokens));
  if (it == blocks_.end() || !holds(it->second, parent, tokens)) return std::nullopt;
  return it->second;
}

PrefixId PrefixIndex::publish(BlockId block, PrefixId parent, std::span<const TokenId> tokens) {
  CHECK(static_cast<int64_t>(tokens.size()) == block_size_, "{} tokens for a block of {}",
        tokens.size(), block_size_);
  CHECK(!contains(block), "block {} is published already", block.value);
  const uint64_t hash = hash_(parent, tokens);
  const auto it = blocks_.find(hash);
  if (it != blocks_.end()) {
    if (holds(it->second, parent, tokens)) return prefix(it->second);
    forget(it->second);  // a collision: the newer content is the likelier to be asked for
  }
  newest_ = PrefixId(newest_.value + 1);
  entry(block) = {.prefix = newest_, .parent = parent, .hash = hash};
  std::copy(tokens.begin(), tokens.end(),
            tokens_.begin() + std::ptrdiff_t{block.value} * block_size_);
  blocks_.emplace(hash, block);
  return newest_;
}

void PrefixIndex::forget(BlockId block) {
  if (!contains(block)) return;
  blocks_.erase(entry(block).hash);
  entry(block) = {};
}

void PrefixIndex::clear() {
  blocks_.clear();
  std::fill(entries_.begin(), entries_.end(), Entry{});
}

}  // namespace fourfold::engine
