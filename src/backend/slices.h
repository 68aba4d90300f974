#pragma once

#include <cstdint>

#include "backend/ops.h"

namespace fourfold::backend {

// Constants of docs/numerics.md.
inline constexpr int64_t kMaxSlices = 8;         ///< W
inline constexpr int64_t kAttentionPiece = 128;  ///< absolute positions

/// CHECKs that the slices are 1, 2, 4 or 8, ascending, and end at the last column.
void check_slices(const MatrixShape& shape);

/// Joins `count` partial sums [count][stride], of which the first n columns are used, by the fixed
/// binary tree; the result is in the first row.
inline void join_slices(float* parts, int64_t count, int64_t stride, int64_t n) {
  for (int64_t step = 1; step < count; step *= 2) {
    for (int64_t left = 0; left < count; left += 2 * step) {
      float* a = parts + left * stride;
      const float* b = a + step * stride;
      for (int64_t j = 0; j < n; ++j) a[j] += b[j];
    }
  }
}

}  // namespace fourfold::backend
