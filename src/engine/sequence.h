#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/ids.h"
#include "engine/kv_cache.h"
#include "engine/step.h"
#include "text/token_constraint.h"

namespace fourfold::engine {

/// A request on its way through the scheduler. Positions [0, computed) are in the KV cache,
/// [computed, planned) are in flight, [planned, length) can be planned.
struct Sequence {
  SequenceId id;
  SequenceId family;  ///< of the first choice; valid if there are several
  SamplingParams sampling;
  std::vector<TokenId> stop_tokens;
  bool ignore_stop = false;
  int32_t scored = 0;  ///< prompt tokens whose log-probability is told; all if nobody asked
  std::vector<TokenId> tokens;  ///< prompt, then the output that is known
  int32_t prompt_tokens = 0;
  int32_t max_tokens = 0;  ///< of prompt and output together

  std::shared_ptr<text::TokenConstraint::Walk> walk;  ///< null: unconstrained
  std::shared_ptr<const text::TokenMask> allowed;     ///< behind the tokens that are known

  int32_t planned = 0;
  int32_t computed = 0;
  int32_t in_flight = 0;  ///< chunks
  int32_t pending = 0;    ///< tokens sampled in steps in flight, so not known yet
  SampledRef newest;      ///< the last of them

  SlotId slot;  ///< valid while it holds blocks
  BlockTable table;
  int32_t announced = 0;   ///< blocks that the executor knows of
  bool preempted = false;  ///< at least once
  bool ended = false;      ///< its last event is out; it waits for its steps in flight

  /// Known and pending tokens.
  int32_t length() const { return static_cast<int32_t>(tokens.size()) + pending; }
  bool decoding() const { return planned >= prompt_tokens && planned + 1 == length(); }
};

}  // namespace fourfold::engine
