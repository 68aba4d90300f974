#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

namespace fourfold::backend::cuda {

/// Throws std::runtime_error where CUDA failed: it ends the rank's group, which says so. An error
/// of a kernel shows at a later call; `what` names that call.
void check(cudaError_t status, std::string_view what);

}  // namespace fourfold::backend::cuda
