#pragma once

#include <cstdint>
#include <vector>

#include "engine/executor.h"

namespace fourfold::runtime {

// The shapes that decode steps have on a device which repeats them (backend::Stream::repeat). There
// are few, so that all can be made ready before the first request; a step takes the next larger
// one.

/// Rows for `rows` sequences: at most a quarter more, and not above `most`.
int64_t repeated_rows(int64_t rows, int64_t most);
/// Width of block tables for `blocks` blocks: less than twice as wide, but at least 1,024 positions
/// and at most what the longest sequence needs.
int64_t repeated_width(int64_t blocks, const engine::ExecutorLimits& limits);

/// All of them, the largest first.
std::vector<int64_t> all_repeated_rows(int64_t most);
std::vector<int64_t> all_repeated_widths(const engine::ExecutorLimits& limits);

}  // namespace fourfold::runtime
