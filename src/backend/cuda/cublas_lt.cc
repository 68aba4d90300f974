#include "backend/cuda/cublas_lt.h"

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "backend/cuda/check.h"
#include "base/shared_library.h"

namespace fourfold::backend::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(
      fmt::format("cuBLASLt: {} failed with status {}", what, static_cast<int>(status)));
}

struct Loaded {
  CublasLt library;
  std::string error;
};

Loaded load() {
  Loaded out;
  // The major version this was built against, by the name that the toolkit and PyPI give it.
  const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  base::SharedLibrary shared(name);
  CublasLt& l = out.library;
  shared.find(l.create, "cublasLtCreate");
  shared.find(l.destroy, "cublasLtDestroy");
  shared.find(l.matmul, "cublasLtMatmul");
  shared.find(l.desc_create, "cublasLtMatmulDescCreate");
  shared.find(l.desc_destroy, "cublasLtMatmulDescDestroy");
  shared.find(l.desc_set, "cublasLtMatmulDescSetAttribute");
  shared.find(l.layout_create, "cublasLtMatrixLayoutCreate");
  shared.find(l.layout_destroy, "cublasLtMatrixLayoutDestroy");
  shared.find(l.preference_create, "cublasLtMatmulPreferenceCreate");
  shared.find(l.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  shared.find(l.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  shared.find(l.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  out.error = shared.error();
  return out;
}

}  // namespace

const CublasLt* CublasLt::get(std::string* why) {
  static const Loaded kLoaded = load();
  if (kLoaded.error.empty()) return &kLoaded.library;
  if (why != nullptr) *why = kLoaded.error;
  return nullptr;
}

struct CublasMatmul::Plan {
  const CublasLt* library = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t w = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t out = nullptr;
  cublasLtMatmulAlgo_t algo{};
  bool found = false;

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {w, x, out}) {
      if (layout != nullptr) library->layout_destroy(layout);
    }
    if (desc != nullptr) library->desc_destroy(desc);
  }
};

CublasMatmul::CublasMatmul(const CublasLt& library) : library_(library) {}

std::unique_ptr<CublasMatmul> CublasMatmul::create() {
  const CublasLt* library = CublasLt::get();
  if (library == nullptr) return nullptr;
  std::unique_ptr<CublasMatmul> out(new CublasMatmul(*library));
  check_blas(library->create(&out->handle_), "cublasLtCreate");
  check(cudaMalloc(&out->workspace_, kWorkspaceBytes), "allocating cuBLASLt's workspace");
  return out;
}

CublasMatmul::~CublasMatmul() {
  plans_.clear();
  if (handle_ != nullptr) library_.destroy(handle_);
  cudaFree(workspace_);
}

CublasMatmul::Plan& CublasMatmul::plan_for(cudaDataType_t out_type, int64_t rows, int64_t n,
                                           int64_t k) {
  std::unique_ptr<Plan>& plan = plans_[{out_type, rows, n, k}];
  if (plan != nullptr) return *plan;
  plan = std::make_unique<Plan>();
  plan->library = &library_;
  check_blas(library_.desc_create(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check_blas(
      library_.desc_set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
      "a description");
  // Column-major to cuBLASLt: w is [k][n], x is [k][rows], out is [n][rows].
  const auto layout = [&](cublasLtMatrixLayout_t* to, cudaDataType_t type, int64_t r, int64_t c) {
    check_blas(
        library_.layout_create(to, type, static_cast<uint64_t>(r), static_cast<uint64_t>(c), r),
        "a layout");
  };
  layout(&plan->w, CUDA_R_16BF, k, n);
  layout(&plan->x, CUDA_R_16BF, k, rows);
  layout(&plan->out, out_type, n, rows);
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(library_.preference_create(&preference), "a preference");
  check_blas(library_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                     &kWorkspaceBytes, sizeof(kWorkspaceBytes)),
             "a preference");
  // Parts of a sum over K are added in fp32, also where the result is bf16.
  constexpr uint32_t kReductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  check_blas(library_.preference_set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                     &kReductions, sizeof(kReductions)),
             "a preference");
  constexpr uint32_t kAlignment = 16;  // of rows of views
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    check_blas(library_.preference_set(preference, attribute, &kAlignment, sizeof(kAlignment)),
               "a preference");
  }
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = library_.heuristic(handle_, plan->desc, plan->w, plan->x, plan->out,
                                                   plan->out, preference, 1, &result, &found);
  library_.preference_destroy(preference);
  plan->found = status == CUBLAS_STATUS_SUCCESS && found == 1;
  plan->algo = result.algo;
  return *plan;
}

bool CublasMatmul::run(cudaStream_t stream, const void* x, const void* w, void* out,
                       cudaDataType_t out_type, int64_t rows, int64_t n, int64_t k) {
  const Plan& plan = plan_for(out_type, rows, n, k);
  if (!plan.found) return false;
  const float one = 1;
  const float zero = 0;
  check_blas(library_.matmul(handle_, plan.desc, &one, w, plan.w, x, plan.x, &zero, out, plan.out,
                             out, plan.out, &plan.algo, workspace_, kWorkspaceBytes, stream),
             "cublasLtMatmul");
  return true;
}

}  // namespace fourfold::backend::cuda
