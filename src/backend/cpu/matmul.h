#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/packed_matrix.h"
#include "backend/thread_pool.h"
#include "tensor/buffer.h"

namespace fourfold::backend {

/// Arena bytes that multiply() takes for a matrix of `columns` columns in up to 8 slices.
int64_t matmul_scratch_bytes(int64_t rows, int64_t columns, int threads);

/// out = x w^T with one kernel, slices joined by the tree. x bf16 [M, K]; out f32 [M, N].
///
/// A task is up to 12 tiles of N times up to 128 rows, all of K; threads take tasks as they come.
/// Neither the tasks nor the threads touch the order of additions of an element.
void multiply(const MatmulKernel& kernel, ThreadPool& pool, Arena& arena, View x,
              const PackedMatrix& w, View out);

}  // namespace fourfold::backend
