#pragma once

#include <cstdint>
#include <vector>

#include "engine/step.h"

namespace fourfold::engine {

/// What an executor can hold. Sizes are per replica.
struct ExecutorLimits {
  int32_t replicas = 1;         ///< replicas of this lockstep block
  int32_t stages = 1;           ///< pipeline stages; decodes are spread over that many steps
  int32_t depth = 2;            ///< steps that may be outstanding
  int32_t slots = 0;            ///< sequences that may run at once
  int32_t max_step_tokens = 0;  ///< rows of one step
  int32_t block_size = 0;       ///< positions in one KV block, >= 1
  int64_t blocks = 0;           ///< KV blocks
  int32_t max_positions = 0;    ///< longest sequence, prompt and output together
};

/// The only door between scheduling and execution. Serves one lockstep block of replicas; steps
/// complete in the order they were submitted.
class Executor {
 public:
  virtual ~Executor() = default;

  virtual const ExecutorLimits& limits() const = 0;

  /// Starts a step: one batch per replica of the block, all with the same step id. At most
  /// limits().depth steps may be outstanding.
  virtual void submit(std::vector<StepBatch> batches) = 0;

  /// Waits for the oldest outstanding step. After a failed result every later one fails too.
  virtual StepResult wait() = 0;
};

}  // namespace fourfold::engine
