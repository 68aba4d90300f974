#pragma once

#include <cuda.h>

#include <cstdint>

namespace fourfold::backend::cuda {

/// How bulk copies find boxes of `box_rows` rows and 64 columns of a bf16 matrix [rows][columns]
/// and lay them out in shared memory: in rows of 128 bytes, swizzled (hopper.cuh). `data` is
/// 16-byte aligned, columns a multiple of 8, box_rows at most 256. Throws std::runtime_error where
/// the driver refuses.
CUtensorMap tensor_map(const void* data, int64_t rows, int64_t columns, int64_t box_rows);

}  // namespace fourfold::backend::cuda
