#pragma once

#include "base/result.h"
#include "engine/snapshot.h"

namespace fourfold::engine {

/// Blocks and slots are conserved; reference counts are those of the tables; a block in two tables
/// is a computed full block of one shared prefix; steps in flight are counted. The error names the
/// first rule that is broken.
base::Status check_invariants(const SchedulerSnapshot& snapshot);

}  // namespace fourfold::engine
