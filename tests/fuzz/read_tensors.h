#pragma once

#include <vector>

#include "base/check.h"
#include "files/tensor_file.h"

namespace fourfold::fuzz {

/// Reads every tensor of an accepted store, row by row: each lies inside its file, so the only
/// error is an encoding that holds no weights.
inline void read_tensors(const files::TensorStore& store) {
  constexpr int64_t kMostElements = 4096;  // An empty row takes no bytes but may stand 2^62 times.
  for (const files::TensorEntry& entry : store.entries()) {
    const files::MappedFile& file = store.files()[entry.file];
    CHECK(entry.offset >= 0 && entry.bytes >= 0 && entry.offset <= file.size() - entry.bytes,
          "[{}, +{}) of {} bytes", entry.offset, entry.bytes, file.size());
    CHECK(store.find(entry.name) == &entry, "{} is not found", entry.name);
    if (entry.bytes == 0 || entry.columns() > kMostElements) continue;
    std::vector<float> row(static_cast<size_t>(entry.columns()));
    const int64_t rows = std::min(entry.rows(), kMostElements / entry.columns());
    for (int64_t i = 0; i < rows; ++i) {
      if (!store.read_rows(entry, i, i + 1, 0, entry.columns(), row).ok()) break;
    }
    const int64_t last = entry.rows() - 1;
    (void)store.read_rows(entry, last, last + 1, 0, entry.columns(), row);
  }
}

}  // namespace fourfold::fuzz
