#pragma once

#include <functional>

#include "backend/ops.h"
#include "backend/thread_pool.h"

namespace fourfold::backend {

/// What a pool's threads reach together, each for half of `seconds`: FLOPs of
/// `compute(steps)`, which returns how many it did, and reads of memory that no cache holds.
base::Result<Peaks> measure_peaks(ThreadPool& pool, double seconds, int sharers,
                                  const std::function<double(int64_t steps)>& compute);

}  // namespace fourfold::backend
