#include "runtime/step_shapes.h"

#include <algorithm>
#include <bit>

#include "base/sizes.h"

namespace fourfold::runtime {
namespace {

constexpr int64_t kLeastPositions = 1024;

int64_t bit_ceil(int64_t x) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(x)));
}

}  // namespace

int64_t repeated_rows(int64_t rows, int64_t most) {
  const int64_t step = std::max<int64_t>(1, bit_ceil(rows) / 8);  // an eighth of the range's end
  return std::min(base::round_up(rows, step), most);
}

int64_t repeated_width(int64_t blocks, const engine::ExecutorLimits& limits) {
  const int64_t least = base::ceil_div(kLeastPositions, int64_t{limits.block_size});
  return std::min(bit_ceil(std::max(blocks, least)),
                  base::ceil_div(int64_t{limits.max_positions}, int64_t{limits.block_size}));
}

std::vector<int64_t> all_repeated_rows(int64_t most) {
  std::vector<int64_t> out;
  for (int64_t rows = most; rows > 0; --rows) {
    if (repeated_rows(rows, most) == rows) out.push_back(rows);
  }
  return out;
}

std::vector<int64_t> all_repeated_widths(const engine::ExecutorLimits& limits) {
  std::vector<int64_t> out;
  const int64_t widest = base::ceil_div(int64_t{limits.max_positions}, int64_t{limits.block_size});
  for (int64_t blocks = widest; blocks > 0;) {
    const int64_t width = repeated_width(blocks, limits);
    if (!out.empty() && width == out.back()) break;  // the least
    out.push_back(width);
    blocks = bit_ceil(width) / 2;
  }
  return out;
}

}  // namespace fourfold::runtime
