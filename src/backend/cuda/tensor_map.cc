#include "backend/cuda/tensor_map.h"

#include <fmt/format.h>

#include <array>
#include <stdexcept>

#include "backend/cuda/check.h"

namespace fourfold::backend::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// Asked of the driver through the runtime, so that the program starts where there is no driver.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                         cudaEnableDefault, &found),
        "asking the driver for cuTensorMapEncodeTiled");
  if (found != cudaDriverEntryPointSuccess) {
    throw std::runtime_error("the NVIDIA driver has no cuTensorMapEncodeTiled (CUDA 12 has)");
  }
  return reinterpret_cast<Encode>(function);
}

}  // namespace

CUtensorMap tensor_map(const void* data, int64_t rows, int64_t columns, int64_t box_rows) {
  static const Encode kEncode = find_encode();
  CUtensorMap map{};
  const std::array<cuuint64_t, 2> dims{static_cast<cuuint64_t>(columns),
                                       static_cast<cuuint64_t>(rows)};
  const std::array<cuuint64_t, 1> strides{static_cast<cuuint64_t>(columns) * sizeof(uint16_t)};
  const std::array<cuuint32_t, 2> box{64, static_cast<cuuint32_t>(box_rows)};
  const std::array<cuuint32_t, 2> steps{1, 1};
  const CUresult status =
      kEncode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, dims.size(), const_cast<void*>(data),
              dims.data(), strides.data(), box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
              CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw std::runtime_error(fmt::format("cuTensorMapEncodeTiled of [{}][{}], boxes of {} rows: {}",
                                         rows, columns, box_rows, static_cast<int>(status)));
  }
  return map;
}

}  // namespace fourfold::backend::cuda
