#include "backend/cpu/cpu_ops.h"
#include "backend/ops.h"
#include "backend/reference/reference_ops.h"

namespace fourfold::backend {

base::Result<std::unique_ptr<Ops>> make_ops(std::string_view backend, std::string_view isa) {
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
  return base::fail("unknown backend '{}'; expected reference or cpu", backend);
}

}  // namespace fourfold::backend
