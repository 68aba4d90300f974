#pragma once

#include <cstdint>
#include <vector>

#include "engine/ids.h"

namespace fourfold::engine {

/// Reference counts of the KV blocks and the order in which free ones are handed out. A free block
/// keeps its content until it is allocated again, so blocks whose content is worth keeping wait at
/// the back of the line. Every operation is O(1).
class BlockPool {
 public:
  /// `blocks` > 0; all are free.
  explicit BlockPool(int64_t blocks);

  /// The block that has been free for longest, with one reference. At least one must be free.
  BlockId allocate();
  /// One more reference to a block, which may be free: its content is used again.
  void share(BlockId block);
  /// One reference less. The last one frees the block, to be allocated after all that are free
  /// (`keep_content`) or before them.
  void release(BlockId block, bool keep_content);

  int64_t blocks() const { return static_cast<int64_t>(entries_.size()) - 1; }
  int64_t free_blocks() const { return free_; }
  int32_t references(BlockId block) const { return entry(block).references; }
  /// Free blocks in the order of allocation.
  std::vector<BlockId> free_list() const;

 private:
  /// Free blocks form a ring through `previous` and `next`; it is closed by an entry behind the
  /// last block, which belongs to no block.
  struct Entry {
    int32_t references = 0;
    int32_t previous = 0;
    int32_t next = 0;
  };

  Entry& entry(BlockId block) { return entries_[static_cast<size_t>(block.value)]; }
  const Entry& entry(BlockId block) const { return entries_[static_cast<size_t>(block.value)]; }
  Entry& at(int32_t index) { return entries_[static_cast<size_t>(index)]; }
  void link(int32_t index, int32_t before);
  void unlink(int32_t index);

  std::vector<Entry> entries_;
  int32_t ring_ = 0;  ///< the entry that closes the ring
  int64_t free_ = 0;
};

}  // namespace fourfold::engine
