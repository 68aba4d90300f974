#pragma once

#include "base/result.h"
#include "verify/options.h"
#include "verify/result.h"
#include "verify/session.h"

namespace fourfold::verify {

/// Every scheme of the options with its legality and its memory per device; nothing is loaded.
base::Result<VerifyReport> plan(const VerifyOptions& options);

/// Proves and times every legal scheme of plan(options): for each repeat, for each scheme (in turn,
/// so that drift of the machine meets all alike) it starts the scheme, in the first repeat proves
/// its answers in invariant numerics, and runs the load at each point in the options' numerics. A
/// scheme that fails is marked and the others go on.
base::Result<VerifyReport> run(const VerifyOptions& options, const Progress& progress);

}  // namespace fourfold::verify
