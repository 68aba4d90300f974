#pragma once

#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace fourfold::comm {

/// out[i] = sum over parts p of parts[p][i], i < n, in fp32, by the binary tree over parts of
/// docs/numerics.md: ((0+1)+(2+3))+((4+5)+(6+7)). Where their number is no power of two, up to 8
/// parts are halved likewise, the smaller half first, and more are added left to right. `out` may
/// be one of the parts.
void tree_sum(std::span<const float* const> parts, float* out, int64_t n);
void tree_sum(std::span<const tensor::BF16* const> parts, float* out, int64_t n);

}  // namespace fourfold::comm
