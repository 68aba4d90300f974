#include <bit>
#include <cstring>

#include "files/encoding.h"

namespace fourfold::files {

namespace {

static_assert(std::endian::native == std::endian::little, "model files are little-endian");

template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

int load_u8(const std::byte* at) { return std::to_integer<int>(*at); }

// Without branches, so that rows of halves are converted in vectors.
inline float from_half(uint16_t half) {
  constexpr uint32_t kExponent = 0x1fu << 23;
  const uint32_t sign = uint32_t{half} << 16 & 0x80000000u;
  const uint32_t magnitude = (half & 0x7fffu) << 13;  // exponent and fraction in their fp32 places
  // Exponent bias 15 becomes 127, exponent 31, of infinities and NaN, 255.
  const uint32_t normal =
      magnitude + (112u << 23) + ((magnitude & kExponent) == kExponent ? 112u << 23 : 0u);
  // Subnormal or zero: the fraction counts steps of 2^-24, which 2^-14 + fraction holds exactly.
  const auto small =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude + (113u << 23)) - 0x1p-14f);
  return std::bit_cast<float>(((magnitude & kExponent) == 0 ? small : normal) | sign);
}

float load_half(const std::byte* at) { return from_half(load<uint16_t>(at)); }

// The types of 32 elements: fp16 scale, [fp16 minimum], [32 fifth bits], 32 nibbles. Element j is
// the low and element j + 16 the high nibble of byte j. Without a minimum the numbers are signed.
template <int kBits, bool kHasMinimum>
void decode_block_32(const std::byte* block, float* out) {
  const float scale = load_half(block);
  const float minimum = kHasMinimum ? load_half(block + 2) : 0.0f;
  const std::byte* fifth_bits = block + (kHasMinimum ? 4 : 2);
  const std::byte* nibbles = fifth_bits + (kBits == 5 ? 4 : 0);
  const uint32_t fifth = kBits == 5 ? load<uint32_t>(fifth_bits) : 0;
  // Loops like these are ones that the compiler turns into vectors.
  for (int high = 0; high < 2; ++high) {
    for (int i = 0; i < 16; ++i) {
      int q = load_u8(nibbles + i) >> (high * 4) & 0xf;
      if constexpr (kBits == 5) q |= static_cast<int>(fifth >> (high * 16 + i) & 1) << 4;
      if constexpr (kHasMinimum) {
        out[high * 16 + i] = scale * static_cast<float>(q) + minimum;
      } else {
        out[high * 16 + i] = scale * static_cast<float>(q - (1 << (kBits - 1)));
      }
    }
  }
}

// Q8_0: fp16 scale, 32 signed bytes.
void decode_block_q8_0(const std::byte* block, float* out) {
  const float scale = load_half(block);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(load<int8_t>(block + 2 + i));
}

struct ScaleAndMinimum {
  int scale;
  int minimum;
};

// Sub-block `sub` (0 to 7) of the twelve bytes of Q4_K and Q5_K that hold eight 6-bit scales and
// eight 6-bit minima: the first four whole in bytes 0-3 and 4-7, the low nibbles of the other four
// in bytes 8-11 and their high two bits on top of the first four.
ScaleAndMinimum load_scale_and_minimum(const std::byte* packed, int sub) {
  if (sub < 4) return {load_u8(packed + sub) & 63, load_u8(packed + sub + 4) & 63};
  const int low = load_u8(packed + sub + 4);
  return {(low & 0xf) | load_u8(packed + sub - 4) >> 6 << 4,
          low >> 4 | load_u8(packed + sub) >> 6 << 4};
}

// Q4_K and Q5_K: fp16 scale, fp16 minimum, twelve bytes of 6-bit scales and minima, [32 bytes of
// fifth bits], 128 bytes of nibbles; eight sub-blocks of 32. Sub-blocks 2p and 2p + 1 are the low
// and high nibbles of the p-th 32 bytes; bit s of fifth-bit byte i belongs to element i of
// sub-block s.
template <int kBits>
void decode_block_k(const std::byte* block, float* out) {
  const float block_scale = load_half(block);
  const float block_minimum = load_half(block + 2);
  const std::byte* fifth_bits = block + 16;
  const std::byte* nibbles = fifth_bits + (kBits == 5 ? 32 : 0);
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleAndMinimum packed = load_scale_and_minimum(block + 4, sub);
    const float scale = block_scale * static_cast<float>(packed.scale);
    const float minimum = block_minimum * static_cast<float>(packed.minimum);
    const int shift = sub % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      int q = load_u8(nibbles + sub / 2 * 32 + i) >> shift & 0xf;
      if constexpr (kBits == 5) q |= (load_u8(fifth_bits + i) >> sub & 1) << 4;
      out[sub * 32 + i] = scale * static_cast<float>(q) - minimum;
    }
  }
}

// Q6_K: 128 bytes of low nibbles, 64 bytes of high bit pairs, sixteen signed 8-bit scales of 16
// elements each, fp16 scale. Each half of 128 elements is four groups of 32: groups 0 and 1 are the
// low, 2 and 3 the high nibbles of the half's 64 bytes; bit pair g of byte i belongs to element i
// of group g.
void decode_block_q6_k(const std::byte* block, float* out) {
  const float block_scale = load_half(block + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* nibbles = block + half * 64;
    const std::byte* pairs = block + 128 + half * 32;
    for (int group = 0; group < 4; ++group) {
      for (int run = 0; run < 2; ++run) {  // of 16 elements with one scale
        const int first = half * 128 + group * 32 + run * 16;
        const float scale =
            block_scale * static_cast<float>(load<int8_t>(block + 192 + first / 16));
        const std::byte* low_bits = nibbles + group % 2 * 32 + run * 16;
        const std::byte* high_bits = pairs + run * 16;
        for (int i = 0; i < 16; ++i) {
          const int low = load_u8(low_bits + i) >> (group / 2 * 4) & 0xf;
          const int q = low | (load_u8(high_bits + i) >> (group * 2) & 3) << 4;
          out[first + i] = scale * static_cast<float>(q - 32);
        }
      }
    }
  }
}

float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
float narrow(double value) { return static_cast<float>(value); }
float same(float value) { return value; }

template <typename T, float (*kConvert)(T)>
void decode_elements(std::span<const std::byte> bytes, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = kConvert(load<T>(bytes.data() + i * sizeof(T)));
}

template <void (*kDecodeBlock)(const std::byte*, float*)>
void decode_blocks(Encoding encoding, std::span<const std::byte> bytes, std::span<float> out) {
  const auto elements = static_cast<size_t>(block_size(encoding));
  const auto stride = static_cast<size_t>(block_bytes(encoding));
  for (size_t i = 0; i < out.size() / elements; ++i) {
    kDecodeBlock(bytes.data() + i * stride, out.data() + i * elements);
  }
}

}  // namespace

float half_to_float(uint16_t half) { return from_half(half); }

base::Status decode_row(Encoding encoding, std::span<const std::byte> bytes, std::span<float> out) {
  const auto elements = static_cast<size_t>(block_size(encoding));
  const auto stride = static_cast<size_t>(block_bytes(encoding));
  if (out.size() % elements != 0 || bytes.size() != out.size() / elements * stride) {
    return base::fail("{} bytes of {} do not hold {} elements: a block of {} elements has {} bytes",
                      bytes.size(), encoding_name(encoding), out.size(), elements, stride);
  }
  switch (encoding) {
    case Encoding::kF64:
      decode_elements<double, narrow>(bytes, out);
      break;
    case Encoding::kF32:
      decode_elements<float, same>(bytes, out);
      break;
    case Encoding::kF16:
      decode_elements<uint16_t, from_half>(bytes, out);
      break;
    case Encoding::kBF16:
      decode_elements<uint16_t, bf16_to_float>(bytes, out);
      break;
    case Encoding::kQ4_0:
      decode_blocks<decode_block_32<4, false>>(encoding, bytes, out);
      break;
    case Encoding::kQ4_1:
      decode_blocks<decode_block_32<4, true>>(encoding, bytes, out);
      break;
    case Encoding::kQ5_0:
      decode_blocks<decode_block_32<5, false>>(encoding, bytes, out);
      break;
    case Encoding::kQ5_1:
      decode_blocks<decode_block_32<5, true>>(encoding, bytes, out);
      break;
    case Encoding::kQ8_0:
      decode_blocks<decode_block_q8_0>(encoding, bytes, out);
      break;
    case Encoding::kQ4_K:
      decode_blocks<decode_block_k<4>>(encoding, bytes, out);
      break;
    case Encoding::kQ5_K:
      decode_blocks<decode_block_k<5>>(encoding, bytes, out);
      break;
    case Encoding::kQ6_K:
      decode_blocks<decode_block_q6_k>(encoding, bytes, out);
      break;
    case Encoding::kI64:
    case Encoding::kI32:
    case Encoding::kI16:
    case Encoding::kI8:
    case Encoding::kU64:
    case Encoding::kU32:
    case Encoding::kU16:
    case Encoding::kU8:
    case Encoding::kBool:
      return base::fail("{} holds integers; expected weights in floating point or quantised blocks",
                        encoding_name(encoding));
  }
  return {};
}

}  // namespace fourfold::files
