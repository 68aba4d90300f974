#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace fourfold::tensor {

/// Element types that live in memory while the program runs. What a file stores is files::Encoding.
enum class DType : uint8_t { kF32, kBF16, kI32 };

constexpr int64_t size_of(DType dtype) { return dtype == DType::kBF16 ? 2 : 4; }

constexpr std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kI32:
      return "i32";
  }
  return "?";
}

/// The upper half of an f32.
struct BF16 {
  uint16_t bits = 0;
};

/// Rounds to nearest, ties to even; a NaN stays a NaN.
constexpr BF16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

constexpr float to_f32(BF16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
constexpr float to_f32(float x) { return x; }

}  // namespace fourfold::tensor
