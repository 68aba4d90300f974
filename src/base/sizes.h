#pragma once

#include <cstdint>

#include "base/result.h"

namespace fourfold::base {

/// a * b of sizes that came from a file or a flag; an error names `what` when it overflows int64.
inline Result<int64_t> checked_mul(int64_t a, int64_t b, const char* what) {
  int64_t out = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &out)) {
    return fail("{}: {} x {} is not a possible size", what, a, b);
  }
  return out;
}

/// a + b under the same conditions.
inline Result<int64_t> checked_add(int64_t a, int64_t b, const char* what) {
  int64_t out = 0;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &out)) {
    return fail("{}: {} + {} is not a possible size", what, a, b);
  }
  return out;
}

/// Rounded up quotient and multiple; b > 0.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace fourfold::base
