#pragma once

#include <memory>

#include "backend/ops.h"
#include "base/result.h"

namespace fourfold::backend {

/// The operators on NVIDIA GPU number `gpu` of this machine, which the calling thread uses from
/// then on: bf16 weights, matmul inputs and KV cache, fp32 sums. An error says what is missing:
/// CUDA in this build, a driver, a GPU of the right kind.
base::Result<std::unique_ptr<Ops>> make_cuda_ops(int gpu);

}  // namespace fourfold::backend
