#include "backend/cuda/cuda_backend.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <stdexcept>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_ops.h"

namespace fourfold::backend {

void cuda::check(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(fmt::format("the GPU failed: {} ({}) when {}",
                                       cudaGetErrorString(status), cudaGetErrorName(status), what));
}

base::Result<std::unique_ptr<Ops>> make_cuda_ops(int gpu) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    int driver = 0;  // stays 0 where there is none
    cudaDriverGetVersion(&driver);
    return base::fail(
        "the cuda backend found no GPU here ({}); check that nvidia-smi lists one and that its "
        "driver is for CUDA {} or later, or use the cpu backend",
        driver == 0             ? "no NVIDIA driver is installed"
        : status == cudaSuccess ? "none is listed"
                                : cudaGetErrorString(status),
        CUDART_VERSION / 1000);
  }
  if (gpu >= count) return base::fail("there is no GPU {} here, only 0 to {}", gpu, count - 1);
  cudaDeviceProp properties{};
  if (cudaSetDevice(gpu) != cudaSuccess ||
      cudaGetDeviceProperties(&properties, gpu) != cudaSuccess) {
    return base::fail("the cuda backend cannot ask GPU {} what it is: {}", gpu,
                      cudaGetErrorString(cudaGetLastError()));
  }
  const int major = properties.major;
  const int minor = properties.minor;
  if (major != 9 || minor != 0) {
    return base::fail(
        "the cuda backend has kernels for GPUs of compute capability 9.0 (H100, H200); GPU {}, "
        "{}, has {}.{}: use the cpu backend",
        gpu, properties.name, major, minor);
  }
  return std::unique_ptr<Ops>(std::make_unique<cuda::CudaOps>(properties.name, count));
}

}  // namespace fourfold::backend
