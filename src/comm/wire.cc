#include "comm/wire.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "comm/isa_clones.h"

namespace fourfold::comm {

using tensor::BF16;

namespace {

constexpr int64_t kTile = 8192;

FF_ISA_CLONES void round_all(const float* from, BF16* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = tensor::to_bf16(from[i]);
}

FF_ISA_CLONES void widen_all(const BF16* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = tensor::to_f32(from[i]);
}

}  // namespace

void to_wire(Wire wire, const float* from, std::byte* to, int64_t n) {
  if (n == 0) return;  // of null pointers nothing may be copied
  if (wire == Wire::kF32) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  // memcpy writes lines that another core holds without fetching them first, which a loop of stores
  // does: a third of the time of a whole all-reduce between two cores.
  std::array<BF16, kTile> tile;
  for (int64_t begin = 0; begin < n; begin += kTile) {
    const int64_t count = std::min(kTile, n - begin);
    round_all(from + begin, tile.data(), count);
    std::memcpy(to + begin * bytes_of(wire), tile.data(),
                static_cast<size_t>(count) * sizeof(BF16));
  }
}

void from_wire(Wire wire, const std::byte* from, float* to, int64_t n) {
  if (n == 0) return;
  if (wire == Wire::kF32) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  widen_all(reinterpret_cast<const BF16*>(from), to, n);
}

}  // namespace fourfold::comm
