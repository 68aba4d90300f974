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
  return base::fail("unknown backend '{}'; expected reference or cpu", backend);
}

}  // namespace fourfold::backend
