#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace fourfold::text {

/// What two neighbours merge into. The smallest rank merges first, the leftmost among equals.
struct Merge {
  int32_t rank;
  int32_t id;
};

/// A run of the text that is, so far, one token. Symbols form a doubly linked list inside a vector;
/// a symbol that was merged into its left neighbour has `length` 0.
struct Symbol {
  int32_t id;      ///< -1 where the vocabulary has no such piece.
  int32_t begin;   ///< Where its bytes begin in the text.
  int32_t length;  ///< Bytes.
  int32_t previous;
  int32_t next;             ///< -1 at the ends.
  Merge with_next{-1, -1};  ///< What it can merge into with the next one; rank -1: nothing.
};

/// Working memory of `merge_symbols`, kept between words to avoid allocation.
struct MergeScratch {
  std::vector<Symbol> symbols;
  std::vector<uint64_t> heap;  ///< rank << 32 | index of the left symbol, the smallest on top.

  void add_symbol(int32_t id, int32_t begin, int32_t length) {
    const auto index = static_cast<int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({id, begin, length, index - 1, -1});
  }
};

/// Merges neighbours in `scratch->symbols` until none can be merged, in O(n log n).
/// `propose(left, right)` returns std::optional<Merge>, its rank at least 0.
template <typename Propose>
void merge_symbols(MergeScratch* scratch, Propose&& propose) {
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  const auto at = [&](int32_t index) -> Symbol& { return symbols[static_cast<size_t>(index)]; };
  // Writes down what `left` can merge into and adds that to the heap, not yet in its place.
  const auto add = [&](int32_t left) {
    Symbol& symbol = at(left);
    const std::optional<Merge> merge =
        symbol.next < 0 ? std::nullopt : propose(symbol, at(symbol.next));
    symbol.with_next = merge.value_or(Merge{-1, -1});
    if (!merge) return false;
    heap.push_back(static_cast<uint64_t>(merge->rank) << 32 | static_cast<uint32_t>(left));
    return true;
  };
  const auto push = [&](int32_t left) {
    if (left >= 0 && add(left)) std::push_heap(heap.begin(), heap.end(), std::greater{});
  };

  heap.clear();
  for (size_t i = 0; i < symbols.size(); ++i) add(static_cast<int32_t>(i));
  std::make_heap(heap.begin(), heap.end(), std::greater{});
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater{});
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto index = static_cast<int32_t>(top & 0xFFFFFFFF);
    Symbol& left = at(index);
    // A proposal that a later merge has overtaken.
    if (left.length == 0 || left.with_next.rank != static_cast<int32_t>(top >> 32)) continue;
    Symbol& right = at(left.next);
    left.id = left.with_next.id;
    left.length += right.length;
    left.next = right.next;
    right.length = 0;
    if (left.next >= 0) at(left.next).previous = index;
    push(left.previous);
    push(index);
  }
}

}  // namespace fourfold::text
