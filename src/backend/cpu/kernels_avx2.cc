#include <immintrin.h>

#include "backend/cpu/kernels.h"

namespace fourfold::backend {
namespace {
#include "backend/cpu/vec_avx2.inc"
}  // namespace

namespace {
#include "backend/cpu/row_kernels.inc"
}  // namespace

const RowKernels kRowKernelsAvx2 = kKernels;

}  // namespace fourfold::backend
