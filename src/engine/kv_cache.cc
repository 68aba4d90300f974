#include "engine/kv_cache.h"

#include <algorithm>

#include "base/check.h"
#include "base/sizes.h"

namespace fourfold::engine {

KvCache::KvCache(int64_t blocks, int32_t block_size, bool reuse, BlockHash hash)
    : block_size_(block_size),
      reuse_(reuse),
      pool_(blocks),
      index_(reuse ? blocks : 0, block_size, hash) {
  CHECK(block_size > 0, "block size {}", block_size);
}

int64_t KvCache::blocks_for(int64_t positions) const {
  return base::ceil_div(positions, block_size_);
}

std::vector<BlockId> KvCache::find_prefix(std::span<const TokenId> tokens) const {
  std::vector<BlockId> found;
  if (!reuse_) return found;
  const auto size = static_cast<size_t>(block_size_);
  PrefixId parent = kEmptyPrefix;
  // `<`, not `<=`: the block of the last token is never shared.
  for (size_t end = size; end < tokens.size(); end += size) {
    const std::optional<BlockId> block = index_.find(parent, tokens.subspan(end - size, size));
    if (!block) break;
    found.push_back(*block);
    parent = index_.prefix(*block);
  }
  return found;
}

int32_t KvCache::known_tokens(std::span<const TokenId> tokens) const {
  return static_cast<int32_t>(find_prefix(tokens).size()) * block_size_;
}

std::optional<int32_t> KvCache::open(BlockTable& table, std::span<const TokenId> tokens,
                                     int64_t headroom, std::span<const BlockId> fork, bool known) {
  CHECK(table.blocks.empty(), "a table of {} blocks is open already", table.blocks.size());
  if (pool_.free_blocks() <= headroom) return std::nullopt;  // spares the search
  std::vector<BlockId> found;
  if (known) found = reuse_ ? find_prefix(tokens) : std::vector<BlockId>(fork.begin(), fork.end());
  const auto shared = static_cast<int32_t>(found.size());
  const int64_t total = blocks_for(static_cast<int64_t>(tokens.size()));
  const int64_t revived = std::count_if(
      found.begin(), found.end(), [this](BlockId block) { return pool_.references(block) == 0; });
  if (pool_.free_blocks() < revived + (total - shared) + headroom) return std::nullopt;

  table.blocks = std::move(found);
  for (const BlockId block : table.blocks) pool_.share(block);
  table.published = shared;
  if (reuse_ && shared > 0) table.prefix = index_.prefix(table.blocks.back());
  while (static_cast<int64_t>(table.blocks.size()) < total) append_block(table);
  return shared * block_size_;
}

bool KvCache::extend(BlockTable& table, int32_t positions) {
  const auto held = static_cast<int64_t>(table.blocks.size());
  const int64_t needed = blocks_for(positions);
  CHECK(needed <= held + 1, "{} positions behind {} blocks of {}", positions, held, block_size_);
  if (needed <= held) return true;
  if (pool_.free_blocks() == 0) return false;
  append_block(table);
  return true;
}

void KvCache::append_block(BlockTable& table) {
  const BlockId block = pool_.allocate();
  if (reuse_) index_.forget(block);
  table.blocks.push_back(block);
  peak_used_ = std::max(peak_used_, pool_.blocks() - pool_.free_blocks());
}

void KvCache::publish(BlockTable& table, std::span<const TokenId> tokens, int32_t computed) {
  if (!reuse_) return;
  const int64_t full =
      std::min(static_cast<int64_t>(tokens.size()), int64_t{computed}) / block_size_;
  for (; table.published < full; ++table.published) {
    const auto begin = static_cast<size_t>(int64_t{table.published} * block_size_);
    table.prefix = index_.publish(table.blocks[static_cast<size_t>(table.published)], table.prefix,
                                  tokens.subspan(begin, static_cast<size_t>(block_size_)));
  }
}

void KvCache::close(BlockTable& table) {
  // The last block first: it is reused first, and a prefix without its tail is still worth keeping.
  for (auto block = table.blocks.rbegin(); block != table.blocks.rend(); ++block) {
    pool_.release(*block, reuse_ && index_.contains(*block));
  }
  table = {};
}

}  // namespace fourfold::engine
