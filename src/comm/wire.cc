#include "comm/wire.h"

#include <cstring>

namespace fourfold::comm {

using tensor::BF16;

namespace {

// The program is compiled for the oldest x86-64, which rounds a fifth as fast; the loader picks the
// variant for this processor, and all compute the same bits. ThreadSanitizer is not up yet when the
// loader does that.
#ifndef __SANITIZE_THREAD__
__attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#endif
void round_all(const float* from, BF16* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = tensor::to_bf16(from[i]);
}

}  // namespace

void to_wire(Wire wire, const float* from, std::byte* to, int64_t n) {
  if (n == 0) return;  // of null pointers nothing may be copied
  if (wire == Wire::kF32) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  round_all(from, reinterpret_cast<BF16*>(to), n);
}

void from_wire(Wire wire, const std::byte* from, float* to, int64_t n) {
  if (n == 0) return;
  if (wire == Wire::kF32) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  const auto* in = reinterpret_cast<const BF16*>(from);
  for (int64_t i = 0; i < n; ++i) to[i] = tensor::to_f32(in[i]);
}

}  // namespace fourfold::comm
