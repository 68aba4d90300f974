#include "comm/tree_sum.h"

#include "base/check.h"

namespace fourfold::comm {
namespace {

template <int kParts>
inline float tree(const float* const* parts, int64_t i) {
  if constexpr (kParts == 1) {
    return parts[0][i];
  } else {
    return tree<kParts / 2>(parts, i) + tree<kParts / 2>(parts + kParts / 2, i);
  }
}

// `out` may be one of the parts, which would keep the compiler from using vectors; but an element
// depends on the same element of the parts only.
template <int kParts>
void sum(const float* const* parts, float* out, int64_t n) {
  const float* local[kParts];
  for (int p = 0; p < kParts; ++p) local[p] = parts[p];
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
  for (int64_t i = 0; i < n; ++i) out[i] = tree<kParts>(local, i);
}

}  // namespace

void tree_sum(std::span<const float* const> parts, float* out, int64_t n) {
  switch (parts.size()) {
    case 1:
      return sum<1>(parts.data(), out, n);
    case 2:
      return sum<2>(parts.data(), out, n);
    case 4:
      return sum<4>(parts.data(), out, n);
    case 8:
      return sum<8>(parts.data(), out, n);
    case 16:
      return sum<16>(parts.data(), out, n);
    case 32:
      return sum<32>(parts.data(), out, n);
    case 64:
      return sum<64>(parts.data(), out, n);
    default:
      CHECK(false, "a tree sum over {} ranks: expected a power of two up to {}", parts.size(),
            kMaxReduceRanks);
  }
}

}  // namespace fourfold::comm
