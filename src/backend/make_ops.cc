#include "backend/cpu/cpu_ops.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/ops.h"
#include "backend/reference/reference_ops.h"

namespace fourfold::backend {

base::Result<std::unique_ptr<Ops>> make_ops(std::string_view backend, std::string_view isa,
                                            int gpu) {
  if (backend == "reference") {
    if (!isa.empty()) {
      return base::fail(
          "the reference backend has no instruction sets to choose from, '{}' was "
          "given; leave it out or use the cpu backend",
          isa);
    }
    return std::unique_ptr<Ops>(std::make_unique<ReferenceOps>());
  }
  if (backend == "cpu") {
    FF_ASSIGN(const Isa chosen, isa.empty() ? detect_isa() : parse_isa(isa));
    return std::unique_ptr<Ops>(std::make_unique<CpuOps>(chosen));
  }
  if (backend == "cuda") {
    if (!isa.empty()) {
      return base::fail("the cuda backend has no instruction sets to choose from, '{}' was given",
                        isa);
    }
    return make_cuda_ops(gpu);
  }
  return base::fail("unknown backend '{}'; expected cuda, cpu or reference", backend);
}

std::string chosen_backend(std::string_view backend, std::string_view isa) {
  if (backend != "auto") return std::string(backend);
  return isa.empty() && make_cuda_ops(/*gpu=*/0).ok() ? "cuda" : "cpu";
}

}  // namespace fourfold::backend
