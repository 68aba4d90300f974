#include "comm/tree_sum.h"

#include "comm/isa_clones.h"

namespace fourfold::comm {
namespace {

using tensor::BF16;
using tensor::to_f32;

template <int kParts, typename T>
[[gnu::always_inline]] inline float tree(const T* const* parts, int64_t i) {
  if constexpr (kParts == 1) {
    return to_f32(parts[0][i]);
  } else {
    constexpr int kHalf = kParts / 2;
    return tree<kHalf>(parts, i) + tree<kParts - kHalf>(parts + kHalf, i);
  }
}

// `out` may be one of the parts, which would keep the compiler from using vectors; but an element
// depends on the same element of the parts only.
template <int kParts, typename T>
[[gnu::always_inline]] inline void sum(const T* const* parts, float* out, int64_t n) {
  const T* local[kParts];
  for (int p = 0; p < kParts; ++p) local[p] = parts[p];
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
  for (int64_t i = 0; i < n; ++i) out[i] = tree<kParts>(local, i);
}

template <typename T>
[[gnu::always_inline]] inline void sum_left_to_right(std::span<const T* const> parts, float* out,
                                                     int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float total = to_f32(parts[0][i]);
    for (size_t p = 1; p < parts.size(); ++p) total += to_f32(parts[p][i]);
    out[i] = total;
  }
}

template <typename T>
[[gnu::always_inline]] inline void sum_any(std::span<const T* const> parts, float* out, int64_t n) {
  switch (parts.size()) {
    case 1:
      return sum<1>(parts.data(), out, n);
    case 2:
      return sum<2>(parts.data(), out, n);
    case 3:
      return sum<3>(parts.data(), out, n);
    case 4:
      return sum<4>(parts.data(), out, n);
    case 5:
      return sum<5>(parts.data(), out, n);
    case 6:
      return sum<6>(parts.data(), out, n);
    case 7:
      return sum<7>(parts.data(), out, n);
    case 8:
      return sum<8>(parts.data(), out, n);
    case 16:
      return sum<16>(parts.data(), out, n);
    case 32:
      return sum<32>(parts.data(), out, n);
    case 64:
      return sum<64>(parts.data(), out, n);
    default:
      return sum_left_to_right(parts, out, n);
  }
}

}  // namespace

FF_ISA_CLONES void tree_sum(std::span<const float* const> parts, float* out, int64_t n) {
  sum_any(parts, out, n);
}

FF_ISA_CLONES void tree_sum(std::span<const BF16* const> parts, float* out, int64_t n) {
  sum_any(parts, out, n);
}

}  // namespace fourfold::comm
