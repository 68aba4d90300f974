#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "verify/options.h"
#include "verify/report.h"

namespace fourfold::verify {

/// A line of progress: what is running and how far it is.
using Progress = std::function<void(const std::string&)>;

/// Every scheme of the options with its legality and its memory per device; nothing is loaded.
base::Result<VerifyReport> plan(const VerifyOptions& options);

/// Proves and times every legal scheme of plan(options): for each repeat, for each scheme (in turn,
/// so that drift of the machine meets all alike) it starts the scheme, proves its answers once, and
/// runs the load at each concurrency. A scheme that fails is marked and the others go on.
base::Result<VerifyReport> run(const VerifyOptions& options, const Progress& progress);

}  // namespace fourfold::verify
