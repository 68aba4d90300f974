#include "engine/block_pool.h"

#include <limits>

#include "base/check.h"

namespace fourfold::engine {

BlockPool::BlockPool(int64_t blocks) {
  CHECK(blocks > 0 && blocks < std::numeric_limits<int32_t>::max(), "{} blocks", blocks);
  ring_ = static_cast<int32_t>(blocks);
  entries_.resize(static_cast<size_t>(blocks) + 1);
  at(ring_).previous = at(ring_).next = ring_;
  for (int32_t i = 0; i < ring_; ++i) link(i, ring_);
}

void BlockPool::link(int32_t index, int32_t before) {
  const int32_t previous = at(before).previous;
  at(index).previous = previous;
  at(index).next = before;
  at(previous).next = index;
  at(before).previous = index;
  ++free_;
}

void BlockPool::unlink(int32_t index) {
  at(at(index).previous).next = at(index).next;
  at(at(index).next).previous = at(index).previous;
  --free_;
}

BlockId BlockPool::allocate() {
  CHECK(free_ > 0, "all {} blocks are in use", blocks());
  const BlockId block(at(ring_).next);
  share(block);
  return block;
}

void BlockPool::share(BlockId block) {
  if (entry(block).references++ == 0) unlink(block.value);
}

void BlockPool::release(BlockId block, bool keep_content) {
  CHECK(entry(block).references > 0, "block {} is free already", block.value);
  if (--entry(block).references > 0) return;
  link(block.value, keep_content ? ring_ : at(ring_).next);
}

std::vector<BlockId> BlockPool::free_list() const {
  std::vector<BlockId> out;
  for (BlockId block(entries_.back().next); block.value != ring_;) {
    out.push_back(block);
    block = BlockId(entry(block).next);
  }
  return out;
}

}  // namespace fourfold::engine
