#pragma once

#include <cublasLt.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda/tuning_cache.h"

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
  decltype(&cublasLtMatmulAlgoCheck) algo_check = nullptr;
  decltype(&cublasLtGetVersion) version = nullptr;
};

/// Matmuls of one stream through cuBLASLt. Used by one thread.
class CublasMatmul {
 public:
  /// Null where the library is missing. Whoever asks for the same kind of GPU shares what is known
  /// of its kernels.
  static std::unique_ptr<CublasMatmul> create();
  ~CublasMatmul();
  CublasMatmul(const CublasMatmul&) = delete;
  CublasMatmul& operator=(const CublasMatmul&) = delete;

  /// out [rows][n] = x [rows][k] bf16 times w [n][k] bf16 transposed. `out`: CUDA_R_32F or
  /// CUDA_R_16BF. False: cuBLASLt has no kernel for this shape. Errors of it are thrown.
  /// While tuning, the first run of a shape of few rows that the cache does not know times the
  /// kernels that cuBLASLt proposes with these operands, on a stream of its own; at other times the
  /// first proposal is taken. A kernel that is best for some rows is often worse for fewer, so that
  /// what was found holds for these rows alone.
  bool run(cudaStream_t stream, const void* x, const void* w, void* out, cudaDataType_t out_type,
           int64_t rows, int64_t n, int64_t k);

  /// The stream of run() is to have nothing else in flight while tuning. Its end saves the cache.
  void tune(bool on);

 private:
  struct Plan;
  struct Operands {
    const void* x;
    const void* w;
    void* out;
  };
  class Timer;
  explicit CublasMatmul(const CublasLt& library);
  Plan& plan_for(const MatmulProblem& problem, const Operands& operands, cudaStream_t stream);
  void choose(Plan& plan, const MatmulProblem& problem, const Operands& operands,
              cudaStream_t stream);
  std::vector<cublasLtMatmulAlgo_t> proposals(const Plan& plan, int most) const;
  cublasStatus_t multiply(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm,
                          const Operands& operands, cudaStream_t stream) const;
  cublasLtMatmulAlgo_t fastest(const Plan& plan,
                               const std::vector<cublasLtMatmulAlgo_t>& algorithms,
                               const Operands& operands);

  const CublasLt& library_;
  TuningCache* cache_ = nullptr;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::unique_ptr<Timer> timer_;  ///< while tuning
  std::map<MatmulProblem, std::unique_ptr<Plan>> plans_;
};

}  // namespace fourfold::backend::cuda
