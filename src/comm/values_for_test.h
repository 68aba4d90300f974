#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/philox.h"

namespace fourfold::comm {

/// Floats of rank `rank` with exponents between -20 and 19: sums depend on their order.
inline std::vector<float> values_of(uint64_t seed, int rank, int64_t n) {
  std::vector<float> values;
  for (int64_t i = 0; i < n; ++i) {
    const auto bits = base::philox(seed, {static_cast<uint32_t>(rank), static_cast<uint32_t>(i)});
    values.push_back(
        std::ldexp(base::uniform_unit(bits[0]) - 0.5F, static_cast<int>(bits[1] % 40) - 20));
  }
  return values;
}

}  // namespace fourfold::comm
