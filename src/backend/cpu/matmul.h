#pragma once

#include <cstdint>
#include <span>

#include "backend/cpu/kernels.h"
#include "backend/cpu/packed_matrix.h"
#include "backend/host_ops.h"
#include "backend/thread_pool.h"
#include "tensor/buffer.h"

namespace fourfold::backend {

/// Arena bytes that multiply() takes for matrices of `columns` columns in up to 8 slices and so
/// many different ranges of rows.
int64_t matmul_scratch_bytes(int64_t rows, int64_t columns, int64_t ranges, int threads);

/// Some rows of x times a matrix, to the same rows of out, f32 [M, N].
struct PackedProduct {
  const PackedMatrix* w;
  View out;
  RowRange rows;
};

/// out = x w^T with one kernel for every product; K and slices of all are the same. x bf16 [M, K].
/// Products of the same rows are neighbours, and no others have any of these rows. Invariant
/// numerics sums every slice by itself and joins them by the tree; fast numerics sums all of K in
/// one go.
///
/// A task is up to 12 tiles of N times up to 128 rows, all of K; threads take tasks as they come.
/// Neither the tasks nor the threads touch the order of additions of an element.
void multiply(const MatmulKernel& kernel, ThreadPool& pool, Arena& arena, base::Numerics numerics,
              View x, std::span<const PackedProduct> products);

}  // namespace fourfold::backend
