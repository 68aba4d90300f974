#pragma once

#include <cstddef>
#include <cstdint>

#include "base/numerics.h"
#include "tensor/dtype.h"

namespace fourfold::comm {

/// In which precision floats travel between ranks. They are added in fp32 whatever travels.
enum class Wire : uint8_t { kF32, kBF16 };

constexpr Wire wire_of(base::Numerics numerics) {
  return numerics == base::Numerics::kFast ? Wire::kBF16 : Wire::kF32;
}

constexpr int64_t bytes_of(Wire wire) { return wire == Wire::kBF16 ? 2 : 4; }

/// Writes `n` floats as they travel: rounded to nearest, ties to even, where that is bf16.
void to_wire(Wire wire, const float* from, std::byte* to, int64_t n);
/// Reads `n` floats that have travelled.
void from_wire(Wire wire, const std::byte* from, float* to, int64_t n);

}  // namespace fourfold::comm
