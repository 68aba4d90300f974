#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
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

/// Blocks and slots are conserved; reference counts are those of the tables; a block in two tables
/// is a computed full block of one shared prefix; steps in flight are counted. The error names the
/// first rule that is broken.
base::Status check_invariants(const SchedulerSnapshot& snapshot);

}  // namespace fourfold::engine
