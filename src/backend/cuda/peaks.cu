// Kernels that no model runs: those that measure what the GPU can do, and one that breaks it.

#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels.h"

namespace fourfold::backend::cuda {
namespace {

__global__ void __launch_bounds__(512)
    read_kernel(const uint4* data, int64_t count, uint32_t* sink) {
  uint32_t mixed = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t i = global_thread();
  for (; i + 7 * stride < count; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int u = 0; u < 8; ++u) v[u] = load_streaming(data + i + u * stride);
#pragma unroll
    for (int u = 0; u < 8; ++u) mixed ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  for (; i < count; i += stride) mixed ^= load_streaming(data + i).x;
  if (mixed == 0x12345678u) *sink = mixed;  // so that nothing is optimised away
}

__global__ void fill_kernel(uint32_t* data, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = global_thread(); i < count; i += stride) {
    uint32_t bits = static_cast<uint32_t>(i) * 0x9e3779b9U;  // MurmurHash3's finaliser
    bits = (bits ^ bits >> 16) * 0x85ebca6bU;
    bits = (bits ^ bits >> 13) * 0xc2b2ae35U;
    bits ^= bits >> 16;
    data[i] = (bits & 0x80ff80ffU) | 0x3f003f00U;
  }
}

__global__ void trap_kernel() { asm volatile("trap;"); }

constexpr int kIndependent = 8;  ///< mma in flight a warp

__global__ void __launch_bounds__(256) mma_kernel(int64_t steps, float* sink) {
  float sums[kIndependent][4] = {};
  const uint32_t a = threadIdx.x * 0x3c003c01u;
  for (int64_t step = 0; step < steps; ++step) {
#pragma unroll
    for (int i = 0; i < kIndependent; ++i) mma(sums[i], a, a + 1, a + 2, a + 3, a + 4, a + 5);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kIndependent; ++i) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  if (sum == 12345.0F) *sink = sum;
}

}  // namespace

cudaError_t read_memory(cudaStream_t stream, const void* data, int64_t bytes, uint32_t* sink) {
  read_kernel<<<static_cast<unsigned>(multiprocessors() * 4), 512, 0, stream>>>(
      static_cast<const uint4*>(data), bytes / 16, sink);
  return cudaGetLastError();
}

cudaError_t fill_without_order(cudaStream_t stream, void* data, int64_t bytes) {
  fill_kernel<<<static_cast<unsigned>(multiprocessors() * 8), 256, 0, stream>>>(
      static_cast<uint32_t*>(data), bytes / static_cast<int64_t>(sizeof(uint32_t)));
  return cudaGetLastError();
}

cudaError_t trap(cudaStream_t stream) {
  trap_kernel<<<1, 1, 0, stream>>>();
  return cudaGetLastError();
}

cudaError_t compute_in_registers(cudaStream_t stream, int64_t steps, float* sink, double* flops) {
  constexpr int kBlocksPerMultiprocessor = 4;
  constexpr int kWarpsPerBlock = 8;
  const int blocks = multiprocessors() * kBlocksPerMultiprocessor;
  mma_kernel<<<static_cast<unsigned>(blocks), 32 * kWarpsPerBlock, 0, stream>>>(steps, sink);
  *flops = 2.0 * 16 * 8 * 16 * kIndependent * kWarpsPerBlock * blocks * static_cast<double>(steps);
  return cudaGetLastError();
}

}  // namespace fourfold::backend::cuda
