#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/ops.h"
#include "backend/thread_pool.h"

namespace fourfold::backend {

/// Arena bytes that attend() takes for up to `rows` rows of `heads` query heads.
int64_t attention_scratch_bytes(int64_t rows, int64_t heads, int64_t head_dim, int threads);

/// Ops::attention on a bf16 cache.
///
/// A task is a KV head and a block of neighbouring rows of one sequence: the keys and values of a
/// piece of 128 positions are brought into the kernels' layout once for all of its queries. With
/// invariant numerics each row then goes over the piece by itself, in the order of
/// docs/numerics.md. With fast numerics scores and sums are two matmuls of the matmul kernel, on
/// queries and weights rounded to bf16 where the kernel takes bf16.
void attend(const RowKernels& kernels, const MatmulKernel& matmul, ThreadPool& pool, Arena& arena,
            base::Numerics numerics, View queries, const RowLayout& rows, const KvLayer& cache,
            const Ops::AttentionParams& params, View out);

}  // namespace fourfold::backend
