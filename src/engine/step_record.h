#pragma once

#include <cstdint>
#include <vector>

#include "engine/ids.h"
#include "engine/step.h"

namespace fourfold::engine {

/// A chunk of a step by sequence instead of slot.
struct ChunkRecord {
  SequenceId sequence;
  int32_t position = 0;  ///< of its first token
  int32_t num_tokens = 0;
  bool sample = false;  ///< its last token is followed by a sampled row
  int32_t scored = 0;   ///< so many of its first are sampled rows whose tokens were known
};

/// A finished step of one replica. The chunks' rows come in order, so rows of LayerTrace and
/// sampled rows map back to (sequence, position).
struct StepRecord {
  StepId step;
  int32_t replica = 0;
  std::vector<ChunkRecord> chunks;
  StepOutput output;
};

}  // namespace fourfold::engine
