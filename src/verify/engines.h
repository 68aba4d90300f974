#pragma once

#include "base/result.h"
#include "verify/options.h"
#include "verify/result.h"
#include "verify/session.h"

namespace fourfold::verify {

/// Measures options.engines over HTTP, by one client and on the same prompts: for each round, for
/// each engine and scheme (one at a time) it starts the scheme, waits until it answers, asks for
/// greedy answers (in the first round), runs this round's repeats of the load and stops it. A
/// scheme that fails is marked, with the engine's own last words, and the others go on. Each load
/// point has prompts of its own, because a prefix cache that is not ours cannot be cleared between
/// them. Errors: no such model; interrupted before any scheme had finished.
base::Result<VerifyReport> run_engines(const VerifyOptions& options, const Progress& progress);

/// How the repeats of the schemes met the drift of the machine, in a sentence.
std::string interleaving_note(const VerifyOptions& options);

/// What is not measured of engines that run outside, and why: a name and a reason each.
std::vector<std::pair<std::string, std::string>> missing_figures(const VerifyOptions& options);

}  // namespace fourfold::verify
