#include <immintrin.h>

#include "backend/cpu/kernels.h"

namespace fourfold::backend {
namespace {

constexpr int64_t kRows = 8;  // with 3 tiles: 24 accumulators, 3 weights, 1 broadcast
constexpr int64_t kPanelBlocks =
    16;  // 512 columns of 3 tiles are 48 KiB: they stay in L2 for all rows

/// Fetched ahead of use in every tile: 15 % at 16 rows, where the second group of rows computes on
/// cached weights while memory would idle.
constexpr int64_t kPrefetchElements = 1024;

/// R rows times T tiles over some blocks, one vdpbf16ps after another for each output element.
template <int R, int T>
void multiply(const uint16_t* x, int64_t x_stride, const uint16_t* w, int64_t tile_stride,
              int64_t blocks, float* out, int64_t out_stride, bool first) {
  __m512 sum[R][T];
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) {
      sum[r][t] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(out + r * out_stride + 16 * t);
    }
  }
  for (int64_t pair = 0; pair < 16 * blocks; ++pair) {
    __m512bh weights[T];
    for (int t = 0; t < T; ++t) {
      const uint16_t* at = w + t * tile_stride + 32 * pair;
      __builtin_prefetch(at + kPrefetchElements);
      weights[t] = (__m512bh)_mm512_loadu_si512(at);
    }
    for (int r = 0; r < R; ++r) {
      int32_t two;
      __builtin_memcpy(&two, x + r * x_stride + 2 * pair, sizeof(two));
      const auto values = (__m512bh)_mm512_set1_epi32(two);
      for (int t = 0; t < T; ++t) sum[r][t] = _mm512_dpbf16_ps(sum[r][t], values, weights[t]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) _mm512_storeu_ps(out + r * out_stride + 16 * t, sum[r][t]);
  }
}

using Multiply = void (*)(const uint16_t*, int64_t, const uint16_t*, int64_t, int64_t, float*,
                          int64_t, bool);

template <int T>
constexpr Multiply kMultiply[kRows] = {multiply<1, T>, multiply<2, T>, multiply<3, T>,
                                       multiply<4, T>, multiply<5, T>, multiply<6, T>,
                                       multiply<7, T>, multiply<8, T>};

void run(const MatmulTask& task) {
  const Multiply* by_rows = task.tiles == 1   ? kMultiply<1>
                            : task.tiles == 2 ? kMultiply<2>
                                              : kMultiply<3>;
  const auto* x = static_cast<const uint16_t*>(task.x);
  // Groups of nearly equal size: a last group of one row would have too few chains of additions.
  const int64_t groups = (task.rows + kRows - 1) / kRows;
  const int64_t group = (task.rows + groups - 1) / groups;
  // Rows that fit one group stream the weights straight through.
  const int64_t panel = groups == 1 ? task.blocks : kPanelBlocks;
  for (int64_t block = 0; block < task.blocks; block += panel) {
    const int64_t blocks = block + panel < task.blocks ? panel : task.blocks - block;
    for (int64_t row = 0; row < task.rows; row += group) {
      const int64_t rows = row + group < task.rows ? group : task.rows - row;
      by_rows[rows - 1](x + row * task.x_stride + 32 * block, task.x_stride, task.w + 512 * block,
                        task.tile_stride, blocks, task.out + row * task.out_stride, task.out_stride,
                        block == 0);
    }
  }
}

}  // namespace

const MatmulKernel kMatmulAvx512 = {.run = run, .tiles = 3, .row_multiple = 1, .f32_rows = false};

}  // namespace fourfold::backend
