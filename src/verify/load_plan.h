#pragma once

#include <vector>

#include "base/result.h"
#include "load/run.h"
#include "load/workload.h"
#include "verify/options.h"

namespace fourfold::verify {

/// A concurrency sweep goes up to here.
inline constexpr int kMostConcurrency = 256;

/// The load points of the options in order. Of a sweep they are 1, 2, 4, … kMostConcurrency, of
/// which each scheme runs as many as gain something. A trace that is replayed in its own time is
/// one point, its mean rate.
std::vector<LoadPoint> load_points(const VerifyOptions& options);

/// What is sent at a load point: the same for every scheme, another draw for each repeat. The
/// prompts are for a model of `vocab` tokens and `max_positions`. Errors: a trace whose requests
/// do not fit.
base::Result<load::Workload> make_workload(const VerifyOptions& options, const LoadPoint& point,
                                           int repeat, int64_t vocab, int64_t max_positions);

/// How it is sent.
load::RunOptions run_options(const VerifyOptions& options, const LoadPoint& point, int repeat,
                             const load::Workload& workload);

/// Positions of the longest sequence at any load point.
base::Result<int64_t> longest_sequence(const VerifyOptions& options, int64_t max_positions);

}  // namespace fourfold::verify
