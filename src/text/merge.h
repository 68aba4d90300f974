#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

namespace fourfold::text {

/// A run of the text that is, so far, one token. Symbols form a doubly linked list inside a vector;
/// a symbol that was merged into its left neighbour has `length` 0.
struct Symbol {
  int32_t id;      ///< -1 where the vocabulary has no such piece.
  int32_t begin;   ///< Where its bytes begin in the text.
  int32_t length;  ///< Bytes.
  int32_t previous;
  int32_t next;  ///< -1 at the ends.
};

/// What two neighbours merge into. The smallest rank merges first, the leftmost among equals.
struct Merge {
  int32_t rank;
  int32_t id;
};

/// Working memory of `merge_symbols`, kept between words to avoid allocation.
struct MergeScratch {
  struct Candidate {
    int32_t rank;
    int32_t left;    ///< Index of the left symbol.
    int32_t length;  ///< Bytes of both when it was proposed: symbols only grow, so a different
                     ///< length now means that the proposal is stale.
    int32_t id;
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;

  void add_symbol(int32_t id, int32_t begin, int32_t length) {
    const auto index = static_cast<int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({id, begin, length, index - 1, -1});
  }
};

/// Merges neighbours in `scratch->symbols` until none can be merged, in O(n log n).
/// `propose(left, right)` returns std::optional<Merge>.
template <typename Propose>
void merge_symbols(MergeScratch* scratch, Propose&& propose) {
  using Candidate = MergeScratch::Candidate;
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  const auto later = [](const Candidate& a, const Candidate& b) {
    return std::tie(a.rank, a.left) > std::tie(b.rank, b.left);
  };
  const auto candidate = [&](int32_t left) -> std::optional<Candidate> {
    const Symbol& a = symbols[static_cast<size_t>(left)];
    if (a.next < 0) return std::nullopt;
    const Symbol& b = symbols[static_cast<size_t>(a.next)];
    const std::optional<Merge> merge = propose(a, b);
    if (!merge) return std::nullopt;
    return Candidate{merge->rank, left, a.length + b.length, merge->id};
  };
  const auto push = [&](int32_t left) {
    if (left < 0) return;
    if (const auto found = candidate(left)) {
      heap.push_back(*found);
      std::push_heap(heap.begin(), heap.end(), later);
    }
  };

  heap.clear();
  for (size_t i = 0; i < symbols.size(); ++i) {
    if (const auto found = candidate(static_cast<int32_t>(i))) heap.push_back(*found);
  }
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate top = heap.back();
    heap.pop_back();
    Symbol& left = symbols[static_cast<size_t>(top.left)];
    if (left.length == 0 || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (left.length + right.length != top.length) continue;
    left.id = top.id;
    left.length = top.length;
    left.next = right.next;
    right.length = 0;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = top.left;
    push(left.previous);
    push(top.left);
  }
}

}  // namespace fourfold::text
