// GCC 12 warns inside its own header: _mm512_undefined_ps() is `__m512 y = y` there (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include "backend/cpu/kernels.h"

namespace fourfold::backend {
namespace {
#include "backend/cpu/vec_avx512.inc"
}  // namespace

namespace {
#include "backend/cpu/row_kernels.inc"
}  // namespace

const RowKernels kRowKernelsAvx512 = kKernels;

}  // namespace fourfold::backend
