#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/block_pool.h"
#include "engine/ids.h"
#include "engine/prefix_index.h"

namespace fourfold::engine {

/// The KV blocks of one sequence in order of position.
struct BlockTable {
  std::vector<BlockId> blocks;
  int32_t published = 0;           ///< leading blocks that the prefix index has been told of
  PrefixId prefix = kEmptyPrefix;  ///< that ends with them
};

/// The KV blocks of one replica: who holds them and which prefixes they keep. Only metadata; the
/// tensors are the executor's.
class KvCache {
 public:
  /// Without `reuse` no prefix is ever found. `hash` is hash_block but in tests of collisions.
  KvCache(int64_t blocks, int32_t block_size, bool reuse, BlockHash hash);

  /// Gives an empty table the blocks for `tokens`: shared ones for the longest known prefix, new
  /// ones for the rest. Returns the number of positions that need no computing, always fewer than
  /// tokens: the last token has to be computed to sample after it, and a shared block is never
  /// written. Without reuse the known prefix is `fork`: computed full blocks of another table which
  /// begins with the same tokens and has more; without `known` either no prefix is. Nothing, and no
  /// change, unless `headroom` more blocks stay free.
  std::optional<int32_t> open(BlockTable& table, std::span<const TokenId> tokens, int64_t headroom,
                              std::span<const BlockId> fork = {}, bool known = true);
  /// Makes the table cover `positions`, at most one block more; false, and no change, if none is
  /// free.
  bool extend(BlockTable& table, int32_t positions);
  /// Makes full blocks findable whose positions are all below `computed`.
  void publish(BlockTable& table, std::span<const TokenId> tokens, int32_t computed);
  /// Gives all blocks back. Their content can be found until they are allocated again.
  void close(BlockTable& table);
  /// Forgets all prefixes, and the peak; blocks in use stay in use.
  void clear_prefixes() {
    index_.clear();
    peak_used_ = pool_.blocks() - pool_.free_blocks();
  }

  /// Leading tokens that open() would find.
  int32_t known_tokens(std::span<const TokenId> tokens) const;
  int64_t blocks_for(int64_t positions) const;
  const BlockPool& pool() const { return pool_; }
  int64_t peak_used() const { return peak_used_; }

 private:
  std::vector<BlockId> find_prefix(std::span<const TokenId> tokens) const;
  void append_block(BlockTable& table);

  int32_t block_size_;
  bool reuse_;
  BlockPool pool_;
  PrefixIndex index_;
  int64_t peak_used_ = 0;
};

}  // namespace fourfold::engine
