#include "engine/check_invariants_test.h"

#include <algorithm>
#include <map>
#include <set>
#include <span>

#include "base/sizes.h"

namespace fourfold::engine {
namespace {

/// Where a block is in a table.
struct Place {
  const SequenceSnapshot* sequence = nullptr;
  size_t index = 0;
};

base::Status check_shared(const SchedulerSnapshot& snapshot, BlockId block, const Place& a,
                          const Place& b) {
  const auto end = (a.index + 1) * static_cast<size_t>(snapshot.block_size);
  if (a.index != b.index) {
    return base::fail("block {} is number {} of sequence {} and number {} of sequence {}",
                      block.value, a.index, a.sequence->id.value, b.index, b.sequence->id.value);
  }
  for (const Place& place : {a, b}) {
    if (static_cast<size_t>(place.sequence->computed) < end ||
        place.sequence->tokens.size() < end) {
      return base::fail("shared block {} ends at position {}, but sequence {} has computed {}",
                        block.value, end, place.sequence->id.value, place.sequence->computed);
    }
  }
  const std::span<const TokenId> tokens_a = std::span(a.sequence->tokens).first(end);
  const std::span<const TokenId> tokens_b = std::span(b.sequence->tokens).first(end);
  if (!std::equal(tokens_a.begin(), tokens_a.end(), tokens_b.begin())) {
    return base::fail("sequences {} and {} share block {} behind different tokens",
                      a.sequence->id.value, b.sequence->id.value, block.value);
  }
  return {};
}

base::Status check_blocks(const SchedulerSnapshot& snapshot) {
  std::vector<int32_t> held(snapshot.references.size());
  std::map<BlockId, Place> first_place;
  for (const SequenceSnapshot& sequence : snapshot.sequences) {
    for (size_t i = 0; i < sequence.blocks.size(); ++i) {
      const BlockId block = sequence.blocks[i];
      ++held.at(static_cast<size_t>(block.value));
      const auto [it, is_first] = first_place.try_emplace(block, Place{&sequence, i});
      if (!is_first) FF_TRY(check_shared(snapshot, block, it->second, {&sequence, i}));
    }
    if (base::ceil_div(sequence.planned, snapshot.block_size) >
        static_cast<int64_t>(sequence.blocks.size())) {
      return base::fail("sequence {} has {} blocks for {} positions", sequence.id.value,
                        sequence.blocks.size(), sequence.planned);
    }
  }
  for (size_t block = 0; block < held.size(); ++block) {
    if (held[block] != snapshot.references[block]) {
      return base::fail("block {} has {} references, tables hold it {} times", block,
                        snapshot.references[block], held[block]);
    }
  }
  const std::set<BlockId> free(snapshot.free_blocks.begin(), snapshot.free_blocks.end());
  if (free.size() != snapshot.free_blocks.size() ||
      free.size() + first_place.size() != held.size()) {
    return base::fail("{} free ({} different) and {} used blocks of {}",
                      snapshot.free_blocks.size(), free.size(), first_place.size(), held.size());
  }
  for (const BlockId block : free) {
    if (first_place.contains(block)) return base::fail("block {} is free and used", block.value);
  }
  return {};
}

base::Status check_slots(const SchedulerSnapshot& snapshot) {
  std::set<SlotId> slots(snapshot.free_slots.begin(), snapshot.free_slots.end());
  for (const SequenceSnapshot& sequence : snapshot.sequences) slots.insert(sequence.slot);
  const size_t counted = snapshot.free_slots.size() + snapshot.sequences.size();
  if (slots.size() != counted || counted != static_cast<size_t>(snapshot.slots)) {
    return base::fail("{} free and {} used slots of {}, {} different", snapshot.free_slots.size(),
                      snapshot.sequences.size(), snapshot.slots, slots.size());
  }
  return {};
}

}  // namespace

base::Status check_invariants(const SchedulerSnapshot& snapshot) {
  FF_TRY(check_blocks(snapshot));
  FF_TRY(check_slots(snapshot));
  size_t in_flight = 0;
  for (const SequenceSnapshot& sequence : snapshot.sequences) {
    const auto chunks =
        std::count(snapshot.chunks_in_flight.begin(), snapshot.chunks_in_flight.end(), sequence.id);
    if (chunks != sequence.in_flight || sequence.computed > sequence.planned) {
      return base::fail("sequence {} counts {} chunks in flight of {}; computed {}, planned {}",
                        sequence.id.value, sequence.in_flight, chunks, sequence.computed,
                        sequence.planned);
    }
    in_flight += static_cast<size_t>(sequence.in_flight);
  }
  if (in_flight != snapshot.chunks_in_flight.size()) {
    return base::fail("{} chunks in flight belong to no sequence",
                      snapshot.chunks_in_flight.size() - in_flight);
  }
  return {};
}

}  // namespace fourfold::engine
