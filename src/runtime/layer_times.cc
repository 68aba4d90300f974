#include "runtime/layer_times.h"

#include <algorithm>
#include <bit>

namespace fourfold::runtime {
namespace {

size_t size_of_step(int64_t rows) {
  return static_cast<size_t>(std::bit_width(static_cast<uint64_t>(rows)) - 1);
}

}  // namespace

void LayerTimes::add(int64_t rows, int64_t ns) {
  Size& size = sizes_[size_of_step(rows)];
  if (size.latest.size() < kLatest) {
    size.latest.push_back(ns);
  } else {
    size.latest[size.next++ % kLatest] = ns;
  }
  std::vector<int64_t> sorted = size.latest;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  size.median = *middle;
}

int64_t LayerTimes::typical(int64_t rows) const {
  const size_t wanted = size_of_step(rows);
  for (size_t i = wanted + 1; i-- > 0;) {
    if (sizes_[i].median > 0) return sizes_[i].median << (wanted - i);
  }
  for (size_t i = wanted + 1; i < sizes_.size(); ++i) {
    if (sizes_[i].median > 0) return sizes_[i].median;
  }
  return 0;
}

}  // namespace fourfold::runtime
