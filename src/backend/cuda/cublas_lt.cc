#include "backend/cuda/cublas_lt.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend/cuda/check.h"
#include "base/log.h"
#include "base/shared_library.h"

namespace fourfold::backend::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;

/// Kernels for more rows are not compared: they run at the GPU's power limit, where what wins alone
/// does not win (8,192 rows of Llama-3.1-8B on an H200: 2 % slower with winners than without).
constexpr int64_t kMostTunedRows = 512;
constexpr int kMostProposals = 8;  // cuBLASLt 13 gives no more for matmuls of models on an H200
constexpr int kTimings = 7;        // of each, their median counts
/// A proposal that takes so much longer than another one at first is not timed again.
constexpr float kHopeless = 1.2F;
/// What another one must save before cuBLASLt's own first choice is not taken: less is noise.
constexpr float kWorthwhile = 0.98F;
/// Written before each timing, so that no weights are found in the L2 cache: twice an H200's.
constexpr size_t kFlushBytes = size_t{100} << 20;

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
  shared.find(l.algo_check, "cublasLtMatmulAlgoCheck");
  shared.find(l.version, "cublasLtGetVersion");
  out.error = shared.error();
  return out;
}

/// Of the GPU that this thread uses.
TuningCache& tuning_cache(size_t version) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<TuningCache>> caches;
  int gpu = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&gpu), "asking which GPU is in use");
  check(cudaGetDeviceProperties(&properties, gpu), "asking what the GPU is");
  const std::string path = tuning_cache_path(properties.name, version);
  const std::lock_guard lock(mutex);
  std::unique_ptr<TuningCache>& cache = caches[path];
  if (cache == nullptr) {
    cache = std::make_unique<TuningCache>(path);
    if (!cache->refused().empty()) spdlog::warn("{}", cache->refused());
  }
  return *cache;
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

/// Times kernels on a stream of its own, so that it can while the other one is captured.
class CublasMatmul::Timer {
 public:
  Timer() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    check(cudaEventCreate(&begin_), "making an event");
    check(cudaEventCreate(&end_), "making an event");
    if (cudaMalloc(&flushed_, kFlushBytes) != cudaSuccess) {
      cudaGetLastError();  // times are of warm weights then, and still comparable
      flushed_ = nullptr;
    }
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    cudaFree(flushed_);
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }

  /// Of what `enqueue(stream)` enqueues, ms; nothing where it says that it failed.
  std::optional<float> time(const std::function<bool(cudaStream_t)>& enqueue) {
    if (flushed_ != nullptr) {
      check(cudaMemsetAsync(flushed_, 0, kFlushBytes, stream_), "timing kernels");
    }
    check(cudaEventRecord(begin_, stream_), "timing kernels");
    if (!enqueue(stream_)) return std::nullopt;
    check(cudaEventRecord(end_, stream_), "timing kernels");
    check(cudaEventSynchronize(end_), "timing kernels");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "timing kernels");
    return milliseconds;
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  void* flushed_ = nullptr;
};

CublasMatmul::CublasMatmul(const CublasLt& library) : library_(library) {}

std::unique_ptr<CublasMatmul> CublasMatmul::create() {
  const CublasLt* library = CublasLt::get();
  if (library == nullptr) return nullptr;
  std::unique_ptr<CublasMatmul> out(new CublasMatmul(*library));
  check_blas(library->create(&out->handle_), "cublasLtCreate");
  check(cudaMalloc(&out->workspace_, kWorkspaceBytes), "allocating cuBLASLt's workspace");
  out->cache_ = &tuning_cache(library->version());
  return out;
}

CublasMatmul::~CublasMatmul() {
  plans_.clear();
  if (handle_ != nullptr) library_.destroy(handle_);
  cudaFree(workspace_);
}

void CublasMatmul::tune(bool on) {
  if (on) {
    timer_ = std::make_unique<Timer>();
    return;
  }
  timer_.reset();
  if (const base::Status saved = cache_->save(); !saved.ok()) {
    spdlog::warn("the kernels chosen for this GPU are not kept, and are timed at each start: {}",
                 saved.error().message);
  }
}

CublasMatmul::Plan& CublasMatmul::plan_for(const MatmulProblem& problem, const Operands& operands,
                                           cudaStream_t stream) {
  std::unique_ptr<Plan>& plan = plans_[problem];
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
  layout(&plan->w, CUDA_R_16BF, problem.k, problem.n);
  layout(&plan->x, CUDA_R_16BF, problem.k, problem.rows);
  layout(&plan->out, problem.bf16_out ? CUDA_R_16BF : CUDA_R_32F, problem.n, problem.rows);
  choose(*plan, problem, operands, stream);
  return *plan;
}

void CublasMatmul::choose(Plan& plan, const MatmulProblem& problem, const Operands& operands,
                          cudaStream_t stream) {
  if (const std::optional<AlgorithmBytes> known = cache_->find(problem)) {
    plan.algo = std::bit_cast<cublasLtMatmulAlgo_t>(*known);
    cublasLtMatmulHeuristicResult_t result{};
    plan.found = library_.algo_check(handle_, plan.desc, plan.w, plan.x, plan.out, plan.out,
                                     &plan.algo, &result) == CUBLAS_STATUS_SUCCESS &&
                 result.workspaceSize <= kWorkspaceBytes;
    if (plan.found) return;
  }
  const bool tunes = timer_ != nullptr && problem.rows <= kMostTunedRows;
  const std::vector<cublasLtMatmulAlgo_t> algorithms = proposals(plan, tunes ? kMostProposals : 1);
  plan.found = !algorithms.empty();
  if (!plan.found) return;
  plan.algo = algorithms.front();
  if (!tunes) return;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &capture), "timing kernels");
  if (capture == cudaStreamCaptureStatusNone) {
    // Its matmuls use the same workspace, some as flags between their blocks.
    check(cudaStreamSynchronize(stream), "timing kernels");
  }
  plan.algo = fastest(plan, algorithms, operands);
  cache_->add(problem, std::bit_cast<AlgorithmBytes>(plan.algo));
}

std::vector<cublasLtMatmulAlgo_t> CublasMatmul::proposals(const Plan& plan, int most) const {
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
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(most));
  int found = 0;
  const cublasStatus_t status =
      library_.heuristic(handle_, plan.desc, plan.w, plan.x, plan.out, plan.out, preference, most,
                         results.data(), &found);
  library_.preference_destroy(preference);
  std::vector<cublasLtMatmulAlgo_t> out;
  if (status != CUBLAS_STATUS_SUCCESS) return out;
  for (int i = 0; i < found; ++i) out.push_back(results[static_cast<size_t>(i)].algo);
  return out;
}

cublasLtMatmulAlgo_t CublasMatmul::fastest(const Plan& plan,
                                           const std::vector<cublasLtMatmulAlgo_t>& algorithms,
                                           const Operands& operands) {
  std::vector<std::vector<float>> times(algorithms.size());
  std::vector<bool> hopeless(algorithms.size(), algorithms.size() < 2);
  // In turns, so that what changes meanwhile, as clocks do, changes for all of them.
  for (int turn = 0; turn < kTimings; ++turn) {
    for (size_t i = 0; i < algorithms.size(); ++i) {
      if (hopeless[i]) continue;
      const auto time = timer_->time([&](cudaStream_t stream) {
        return multiply(plan, algorithms[i], operands, stream) == CUBLAS_STATUS_SUCCESS;
      });
      if (!time) {
        hopeless[i] = true;
        times[i].clear();
      } else if (turn > 0) {  // a kernel's first run loads it
        times[i].push_back(*time);
      }
    }
    if (turn != 1) continue;
    float best = std::numeric_limits<float>::max();
    for (const auto& t : times) best = t.empty() ? best : std::min(best, t.front());
    for (size_t i = 1; i < times.size(); ++i) {
      hopeless[i] = hopeless[i] || times[i].front() > kHopeless * best;  // empty only if hopeless
    }
  }
  size_t best = 0;
  float limit = std::numeric_limits<float>::max();
  for (size_t i = 0; i < times.size(); ++i) {
    if (times[i].size() < kTimings - 1) continue;
    const auto middle = times[i].begin() + std::ssize(times[i]) / 2;
    std::nth_element(times[i].begin(), middle, times[i].end());
    if (*middle >= limit) continue;
    best = i;
    limit = i == 0 ? kWorthwhile * *middle : *middle;
  }
  return algorithms[best];
}

cublasStatus_t CublasMatmul::multiply(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm,
                                      const Operands& operands, cudaStream_t stream) const {
  const float one = 1;
  const float zero = 0;
  return library_.matmul(handle_, plan.desc, &one, operands.w, plan.w, operands.x, plan.x, &zero,
                         operands.out, plan.out, operands.out, plan.out, &algorithm, workspace_,
                         kWorkspaceBytes, stream);
}

bool CublasMatmul::run(cudaStream_t stream, const void* x, const void* w, void* out,
                       cudaDataType_t out_type, int64_t rows, int64_t n, int64_t k) {
  const Operands operands{x, w, out};
  const Plan& plan = plan_for({.bf16_out = out_type == CUDA_R_16BF, .rows = rows, .n = n, .k = k},
                              operands, stream);
  if (!plan.found) return false;
  check_blas(multiply(plan, plan.algo, operands, stream), "cublasLtMatmul");
  return true;
}

}  // namespace fourfold::backend::cuda
