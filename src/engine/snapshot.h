#pragma once

#include <cstdint>
#include <vector>

#include "engine/ids.h"

namespace fourfold::engine {

/// A sequence that holds a slot: it runs, or has ended with steps still in flight.
struct SequenceSnapshot {
  SequenceId id;
  SlotId slot;
  std::vector<TokenId> tokens;  ///< prompt and known output
  std::vector<BlockId> blocks;
  int32_t planned = 0;    ///< positions submitted
  int32_t computed = 0;   ///< positions whose step has come back
  int32_t in_flight = 0;  ///< chunks
};

/// The whole state of a Scheduler that its invariants speak of.
struct SchedulerSnapshot {
  int32_t block_size = 0;
  int32_t slots = 0;
  std::vector<int32_t> references;  ///< of each block
  std::vector<BlockId> free_blocks;
  std::vector<SlotId> free_slots;
  std::vector<SequenceSnapshot> sequences;
  std::vector<SequenceId> chunks_in_flight;  ///< whose, a chunk each
};

}  // namespace fourfold::engine
