#pragma once

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "files/tensor_file.h"

namespace fourfold::fuzz {

/// Reads the first and the last rows of every tensor of an accepted store: each lies inside its
/// file.
inline void read_tensors(const files::TensorStore& store) {
  constexpr int64_t kMostElements = 4096;  // An empty row takes no bytes but may stand 2^62 times.
  for (const files::TensorEntry& entry : store.entries()) {
    const files::MappedFile& file = store.files()[entry.file];
    CHECK(entry.offset >= 0 && entry.bytes >= 0 && entry.offset <= file.size() - entry.bytes,
          "[{}, +{}) of {} bytes", entry.offset, entry.bytes, file.size());
    CHECK(store.find(entry.name) == &entry, "{} is not found", entry.name);
    if (entry.bytes == 0 || entry.columns() > kMostElements) continue;
    const int64_t rows = std::min(entry.rows(), kMostElements / entry.columns());
    std::vector<float> values(static_cast<size_t>(rows * entry.columns()));
    (void)store.read_rows(entry, 0, rows, 0, entry.columns(), values);
    (void)store.read_rows(entry, entry.rows() - rows, entry.rows(), 0, entry.columns(), values);
  }
}

}  // namespace fourfold::fuzz
