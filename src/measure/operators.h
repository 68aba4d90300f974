#pragma once

#include <cstdint>
#include <vector>

#include "base/numerics.h"
#include "base/result.h"
#include "measure/progress.h"
#include "measure/results.h"
#include "runtime/cluster.h"

namespace fourfold::measure {

struct OperatorOptions {
  runtime::ClusterConfig cluster;  ///< model, weights, backend, instruction set, threads
  base::Numerics numerics = base::Numerics::kFast;
  std::vector<int> rows = {1, 8, 16, 512};
  int context = 512;  ///< positions that each row of a decode step attends to
  int repeats = 3;
};

/// Runs the decoder itself on one device, with every operator timed, so that shapes, order and the
/// state of the caches are those of a model at work. Up to 64 rows are a decode step of as many
/// sequences at position `context`; more are one prompt of so many positions.
///
/// Figures "matmul gate+up m8", in microseconds a call, mean over the layers. The ceiling is the
/// least time that the operator's FLOPs, or the weights and cache that it has to read, take at the
/// peaks measured before and after each repeat; for operators that only touch activations, what
/// these bytes would take from memory, which a cache can beat. Of a model larger than
/// 4 GiB only the first layers run.
base::Result<std::vector<Figure>> measure_operators(const OperatorOptions& options,
                                                    const Progress& progress);

}  // namespace fourfold::measure
