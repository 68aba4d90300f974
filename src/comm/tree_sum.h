#pragma once

#include <cstdint>
#include <span>

namespace fourfold::comm {

/// The largest group that can reduce.
inline constexpr int kMaxReduceRanks = 64;

/// out[i] = sum over parts p of parts[p][i], i < n, by the binary tree over parts of
/// docs/numerics.md: ((0+1)+(2+3))+((4+5)+(6+7)). parts.size() is a power of two up to
/// kMaxReduceRanks. `out` may be one of the parts.
void tree_sum(std::span<const float* const> parts, float* out, int64_t n);

}  // namespace fourfold::comm
