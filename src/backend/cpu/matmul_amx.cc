#include <immintrin.h>

#include "backend/cpu/kernels.h"

namespace fourfold::backend {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTiles = 2;
// 512 columns: those of 32 rows (32 KiB) stay in L1, those of 12 tiles (192 KiB) in L2 for all
// rows. Both lie as tiles of 1 KiB one after another, so that they fill the cache's sets evenly.
constexpr int64_t kPanelBlocks = 16;

/// LDTILECFG's operand (Intel SDM, volume 1, "Intel AMX"). Every tile is 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kTileConfig;

/// Tiles 0 to 3 are sums [row group][output tile], 4 and 5 rows of x, 6 and 7 weights.
/// R groups of 16 rows times T tiles; each block of 32 columns is one tdpbf16ps per sum.
template <int R, int T>
void multiply(const uint16_t* x, int64_t x_stride, const uint16_t* w, int64_t tile_stride,
              int64_t blocks, float* out, int64_t out_stride, bool first) {
  const int64_t out_bytes = 4 * out_stride;
  const auto sum = [&](int r, int t) { return out + kTileRows * r * out_stride + 16 * t; };
  if (first) {
    _tile_zero(0);
    if constexpr (T > 1) _tile_zero(1);
    if constexpr (R > 1) _tile_zero(2);
    if constexpr (R > 1 && T > 1) _tile_zero(3);
  } else {
    _tile_loadd(0, sum(0, 0), out_bytes);
    if constexpr (T > 1) _tile_loadd(1, sum(0, 1), out_bytes);
    if constexpr (R > 1) _tile_loadd(2, sum(1, 0), out_bytes);
    if constexpr (R > 1 && T > 1) _tile_loadd(3, sum(1, 1), out_bytes);
  }
  for (int64_t block = 0; block < blocks; ++block) {
    _tile_loadd(6, w + 512 * block, 64);
    _tile_loadd(4, x + 512 * block, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (T > 1) {
      _tile_loadd(7, w + tile_stride + 512 * block, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (R > 1) {
      _tile_loadd(5, x + x_stride + 512 * block, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (R > 1 && T > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sum(0, 0), out_bytes);
  if constexpr (T > 1) _tile_stored(1, sum(0, 1), out_bytes);
  if constexpr (R > 1) _tile_stored(2, sum(1, 0), out_bytes);
  if constexpr (R > 1 && T > 1) _tile_stored(3, sum(1, 1), out_bytes);
}

void run(const MatmulTask& task) {
  const auto* x = static_cast<const uint16_t*>(task.x);
  constexpr int64_t kRows = 2 * kTileRows;
  // Rows that fit one group stream the weights straight through.
  const int64_t panel = task.rows <= kRows ? task.blocks : kPanelBlocks;
  _tile_loadconfig(&kTileConfig);
  for (int64_t block = 0; block < task.blocks; block += panel) {
    const int64_t blocks = block + panel < task.blocks ? panel : task.blocks - block;
    for (int64_t row = 0; row < task.rows; row += kRows) {
      const bool two_rows = row + kRows <= task.rows;
      for (int64_t tile = 0; tile < task.tiles; tile += kTiles) {
        const bool two_tiles = tile + kTiles <= task.tiles;
        const auto multiply_tiles = two_rows ? (two_tiles ? multiply<2, 2> : multiply<2, 1>)
                                             : (two_tiles ? multiply<1, 2> : multiply<1, 1>);
        multiply_tiles(x + row / kTileRows * task.x_stride + 512 * block, task.x_stride,
                       task.w + tile * task.tile_stride + 512 * block, task.tile_stride, blocks,
                       task.out + row * task.out_stride + 16 * tile, task.out_stride,
                       block == 0 && !task.accumulate);
      }
    }
  }
  _tile_release();
}

double compute_in_registers(int64_t steps) {
  _tile_loadconfig(&kTileConfig);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t i = 0; i < steps; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return static_cast<double>(steps) * 4 * 16 * 16 * 64;
}

}  // namespace

const MatmulKernel kMatmulAmx = {.run = run,
                                 .tiles = kTiles,
                                 .row_group = 16,
                                 .f32_rows = false,
                                 .compute_in_registers = compute_in_registers};

}  // namespace fourfold::backend
