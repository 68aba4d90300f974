#include "backend/slices.h"

#include <bit>

namespace fourfold::backend {

void check_slices(const MatrixShape& shape) {
  const auto count = shape.slice_ends.size();
  CHECK(shape.rows >= 0 && shape.columns >= 0, "a matrix [{}, {}]", shape.rows, shape.columns);
  CHECK(count <= kMaxSlices && std::has_single_bit(count), "{} slices, not 1, 2, 4 or 8", count);
  int64_t begin = 0;
  for (const int64_t end : shape.slice_ends) {
    CHECK(begin <= end, "a slice from {} to {}", begin, end);
    begin = end;
  }
  CHECK(begin == shape.columns, "slices end at {}, the matrix at {}", begin, shape.columns);
}

}  // namespace fourfold::backend
