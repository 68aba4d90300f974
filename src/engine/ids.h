#pragma once

#include <cstdint>

#include "base/strong_id.h"

namespace fourfold::engine {

using TokenId = int32_t;
using SequenceId = base::StrongId<struct SequenceTag>;
/// One KV block of a replica's pool.
using BlockId = base::StrongId<struct BlockTag, int32_t>;
/// A sequence's place in the worker's tables while it runs: block table, sampling parameters.
using SlotId = base::StrongId<struct SlotTag, int32_t>;
/// Steps are numbered from 0 in submission order.
using StepId = base::StrongId<struct StepTag>;

}  // namespace fourfold::engine
