#pragma once

#include <cublasLt.h>

#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "base/result.h"

namespace fourfold::backend::cuda {

/// cuBLASLt, loaded when it is first wanted, so that fourfold starts on machines without it.
class CublasLt {
 public:
  /// Null if the library is not there; `why`, if given, says so then.
  static const CublasLt* get(std::string* why = nullptr);

  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
};

/// Matmuls of one stream through cuBLASLt. Used by one thread.
class CublasMatmul {
 public:
  /// Null where the library is missing.
  static std::unique_ptr<CublasMatmul> create();
  ~CublasMatmul();
  CublasMatmul(const CublasMatmul&) = delete;
  CublasMatmul& operator=(const CublasMatmul&) = delete;

  /// out [rows][n] = x [rows][k] bf16 times w [n][k] bf16 transposed. `out`: CUDA_R_32F or
  /// CUDA_R_16BF. False: cuBLASLt has no kernel for this shape. Errors of it are thrown.
  bool run(cudaStream_t stream, const void* x, const void* w, void* out, cudaDataType_t out_type,
           int64_t rows, int64_t n, int64_t k);

 private:
  struct Plan;
  explicit CublasMatmul(const CublasLt& library);
  Plan& plan_for(cudaDataType_t out_type, int64_t rows, int64_t n, int64_t k);

  const CublasLt& library_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<std::tuple<cudaDataType_t, int64_t, int64_t, int64_t>, std::unique_ptr<Plan>> plans_;
};

}  // namespace fourfold::backend::cuda
