#include <immintrin.h>

#include "backend/cpu/kernels.h"

namespace fourfold::backend {
namespace {

constexpr int64_t kFewRows = 2;  // with 3 tiles: 6 chains of additions each
constexpr int64_t kTiles = 3;
constexpr int64_t kRows = 6;  // with 1 tile: 12 chains, and 16 registers hold no more
// 512 columns: those of 6 rows stay in L1, those of 12 tiles (192 KiB) in L2 for all rows.
constexpr int64_t kPanelBlocks = 16;
/// Fetched ahead of use in every tile: 20 % at 16 rows, where later groups of rows compute on
/// cached weights while memory would idle.
constexpr int64_t kPrefetchElements = 1024;

/// R rows times T tiles over some blocks. A tile is two vectors of 8 columns; a 32-bit lane of the
/// weights holds an even k in its lower and an odd k in its upper half, and bf16 is the upper half
/// of an f32.
template <int R, int T>
void multiply(const float* x, int64_t x_stride, const uint16_t* w, int64_t tile_stride,
              int64_t blocks, float* out, int64_t out_stride, bool first) {
  constexpr int kVectors = 2 * T;
  __m256 sum[R][kVectors];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(out + r * out_stride + 8 * v);
    }
  }
  const __m256i upper = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u));
  for (int64_t pair = 0; pair < 16 * blocks; ++pair) {
    for (int v = 0; v < kVectors; ++v) {
      const auto* at = w + v / 2 * tile_stride + 32 * pair + 16 * (v % 2);
      if (v % 2 == 0) __builtin_prefetch(at + kPrefetchElements);  // a line: both vectors
      const __m256i two = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(two, 16));
      const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(two, upper));
      for (int r = 0; r < R; ++r) {
        const float* values = x + r * x_stride + 2 * pair;
        sum[r][v] = _mm256_fmadd_ps(_mm256_broadcast_ss(values), even, sum[r][v]);
        sum[r][v] = _mm256_fmadd_ps(_mm256_broadcast_ss(values + 1), odd, sum[r][v]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) _mm256_storeu_ps(out + r * out_stride + 8 * v, sum[r][v]);
  }
}

using Multiply = void (*)(const float*, int64_t, const uint16_t*, int64_t, int64_t, float*, int64_t,
                          bool);

constexpr Multiply kAllTiles[kFewRows] = {multiply<1, 3>, multiply<2, 3>};
constexpr Multiply kOneTile[kRows] = {multiply<1, 1>, multiply<2, 1>, multiply<3, 1>,
                                      multiply<4, 1>, multiply<5, 1>, multiply<6, 1>};

void run(const MatmulTask& task) {
  const auto* x = static_cast<const float*>(task.x);
  // Groups of nearly equal size: a last group of one row would have too few chains of additions.
  const int64_t groups = (task.rows + kRows - 1) / kRows;
  const int64_t group = (task.rows + groups - 1) / groups;
  // Rows that fit one group stream the weights straight through.
  const int64_t panel = groups == 1 ? task.blocks : kPanelBlocks;
  for (int64_t block = 0; block < task.blocks; block += panel) {
    const int64_t blocks = block + panel < task.blocks ? panel : task.blocks - block;
    for (int64_t row = 0; row < task.rows; row += group) {
      const int64_t rows = row + group < task.rows ? group : task.rows - row;
      int64_t tile = 0;
      const auto advance = [&](const Multiply multiply_rows, int64_t tiles) {
        multiply_rows(x + row * task.x_stride + 32 * block, task.x_stride,
                      task.w + tile * task.tile_stride + 512 * block, task.tile_stride, blocks,
                      task.out + row * task.out_stride + 16 * tile, task.out_stride,
                      block == 0 && !task.accumulate);
        tile += tiles;
      };
      while (rows <= kFewRows && tile + kTiles <= task.tiles) advance(kAllTiles[rows - 1], kTiles);
      while (tile < task.tiles) advance(kOneTile[rows - 1], 1);
    }
  }
}

double compute_in_registers(int64_t steps) {
  constexpr int kChains = 12;  // more than latency times throughput
  __m256 sums[kChains] = {};
  const __m256 ones = _mm256_set1_ps(1);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) {
      sum = _mm256_fmadd_ps(ones, ones, sum);
      asm volatile("" : "+x"(sum));  // in a register, and needed
    }
  }
  return static_cast<double>(steps) * kChains * 16;
}

}  // namespace

const MatmulKernel kMatmulAvx2 = {.run = run,
                                  .tiles = kTiles,
                                  .row_group = 1,
                                  .f32_rows = true,
                                  .compute_in_registers = compute_in_registers};

}  // namespace fourfold::backend
