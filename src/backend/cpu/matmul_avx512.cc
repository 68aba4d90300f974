#include <immintrin.h>

#include "backend/cpu/kernels.h"

namespace fourfold::backend {
namespace {

// 24 accumulators, 3 vectors of weights, 1 of x.
constexpr int64_t kRows = 8;
constexpr int64_t kTiles = 3;
// 1024 columns: those of 8 rows (16 KiB) stay in L1, those of 12 tiles (384 KiB) in L2 for all
// rows.
constexpr int64_t kPanelBlocks = 32;
/// Fetched ahead of use in every tile: 15 % at 16 rows, where the second group of rows computes on
/// cached weights while memory would idle.
constexpr int64_t kPrefetchElements = 1024;

/// R rows times T tiles over some blocks, one vdpbf16ps after another for each output element.
template <int R, int T>
void multiply(const uint16_t* x, int64_t x_stride, const uint16_t* w, int64_t tile_stride,
              int64_t blocks, float* out, int64_t out_stride, bool first) {
  __m512 sum[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int t = 0; t < T; ++t) sum[r][t] = _mm512_setzero_ps();
  }
  if (!first) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
      for (int t = 0; t < T; ++t) sum[r][t] = _mm512_loadu_ps(out + r * out_stride + 16 * t);
    }
  }
  for (int64_t pair = 0; pair < 16 * blocks; ++pair) {
    __m512bh weights[T];
#pragma GCC unroll 3
    for (int t = 0; t < T; ++t) {
      const uint16_t* at = w + t * tile_stride + 32 * pair;
      __builtin_prefetch(at + kPrefetchElements);
      weights[t] = (__m512bh)_mm512_loadu_si512(at);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      int32_t two;
      __builtin_memcpy(&two, x + r * x_stride + 2 * pair, sizeof(two));
      const auto values = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 3
      for (int t = 0; t < T; ++t) sum[r][t] = _mm512_dpbf16_ps(sum[r][t], values, weights[t]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int t = 0; t < T; ++t) _mm512_storeu_ps(out + r * out_stride + 16 * t, sum[r][t]);
  }
}

using Multiply = void (*)(const uint16_t*, int64_t, const uint16_t*, int64_t, int64_t, float*,
                          int64_t, bool);

/// [tiles - 1][rows - 1]
constexpr Multiply kMultiply[kTiles][kRows] = {
    {multiply<1, 1>, multiply<2, 1>, multiply<3, 1>, multiply<4, 1>, multiply<5, 1>, multiply<6, 1>,
     multiply<7, 1>, multiply<8, 1>},
    {multiply<1, 2>, multiply<2, 2>, multiply<3, 2>, multiply<4, 2>, multiply<5, 2>, multiply<6, 2>,
     multiply<7, 2>, multiply<8, 2>},
    {multiply<1, 3>, multiply<2, 3>, multiply<3, 3>, multiply<4, 3>, multiply<5, 3>, multiply<6, 3>,
     multiply<7, 3>, multiply<8, 3>}};

void run(const MatmulTask& task) {
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
      for (int64_t tile = 0; tile < task.tiles; tile += kTiles) {
        const int64_t tiles = tile + kTiles < task.tiles ? kTiles : task.tiles - tile;
        kMultiply[tiles - 1][rows - 1](x + row * task.x_stride + 32 * block, task.x_stride,
                                       task.w + tile * task.tile_stride + 512 * block,
                                       task.tile_stride, blocks,
                                       task.out + row * task.out_stride + 16 * tile,
                                       task.out_stride, block == 0 && !task.accumulate);
      }
    }
  }
}

double compute_in_registers(int64_t steps) {
  constexpr int kChains = 16;  // more than latency times throughput
  __m512 sums[kChains] = {};
  const auto ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 16
    for (auto& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, ones, ones);
      asm volatile("" : "+v"(sum));  // in a register, and needed
    }
  }
  return static_cast<double>(steps) * kChains * 64;
}

}  // namespace

const MatmulKernel kMatmulAvx512 = {.run = run,
                                    .tiles = kTiles,
                                    .row_group = 1,
                                    .f32_rows = false,
                                    .compute_in_registers = compute_in_registers};

}  // namespace fourfold::backend
