// Stands in for the backend where fourfold is built without the CUDA toolkit.

#include "backend/cuda/cuda_backend.h"

namespace fourfold::backend {

base::Result<std::unique_ptr<Ops>> make_cuda_ops(int /*gpu*/) {
  return base::fail(
      "this fourfold was built without CUDA; install the CUDA toolkit (13.0 is known to do), see "
      "that "
      "nvcc is found, and build again, or use the cpu backend");
}

}  // namespace fourfold::backend
