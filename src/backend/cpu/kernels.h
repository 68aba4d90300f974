#pragma once

// Included by files that are compiled for one instruction set. It and they include no header with
// inline functions that others use too: the linker keeps one copy of such a function, and it could
// be the one that another machine cannot run.

#include <cstdint>

namespace fourfold::backend {

/// The most output tiles of 16 columns and rows of one matmul task.
inline constexpr int64_t kMaxTaskTiles = 12;
inline constexpr int64_t kMaxTaskRows = 128;

/// Some blocks of K of some rows times some tiles: out[row][tile * 16 + lane].
struct MatmulTask {
  /// [rows / G][x blocks][G][32], G the kernel's row_group, bf16 or f32 as the kernel wants; with
  /// G = 1 it is row-major. Padded as the weights are.
  const void* x;
  int64_t x_stride;     ///< elements from group to group
  int64_t rows;         ///< a multiple of the kernel's row_group
  const uint16_t* w;    ///< the blocks in the first tile: [blocks][16][16][2]
  int64_t tile_stride;  ///< elements from tile to tile
  int64_t tiles;
  int64_t blocks;  ///< of 32 columns; at least one
  float* out;      ///< [rows][out_stride]
  int64_t out_stride;
  bool accumulate;  ///< add to what `out` holds
};

struct MatmulKernel {
  void (*run)(const MatmulTask& task);
  int64_t tiles;      ///< it computes at once; divides kMaxTaskTiles
  int64_t row_group;  ///< G: rows it computes at once whether needed or not
  bool f32_rows;      ///< x is f32, else bf16
  /// Runs the kernel's instruction on registers alone, `steps` times 4 or more; the FLOPs done.
  double (*compute_in_registers)(int64_t steps);
};

/// The query heads of one row that share one KV head, and one piece of 128 positions.
struct PieceTask {
  const float* queries;  ///< [heads][padded head_dim]
  int64_t heads;
  int64_t padded_head_dim;  ///< a multiple of 16, zeros at the end
  float scale;
  const float* keys;    ///< [128 / 16][padded head_dim][16 positions]
  const float* values;  ///< [128][padded head_dim]
  int64_t first;        ///< positions [first, last) of the piece take part; at least one
  int64_t last;
  float* scores;   ///< scratch, [heads][128]
  float* maxima;   ///< [heads], of the pieces so far
  float* weights;  ///< [heads]
  float* totals;   ///< [heads][padded head_dim]
};

/// One query's scores against a piece of 128 positions become its weights, rounded for a matmul.
struct SoftmaxTask {
  const float* scores;  ///< [128], q k without scale
  float scale;
  int64_t first;  ///< positions [first, last) take part; at least one
  int64_t last;
  float* max;     ///< of the pieces so far: updated
  float* weight;  ///< sum of e^(score - max): updated
  void* out;      ///< [128] as the matmul kernel reads a row: f32, or bf16 in blocks of 32
  bool f32_out;
  int64_t block_stride;  ///< elements from block to block
};

/// The kernels over rows of one instruction set. Lengths are arbitrary.
struct RowKernels {
  /// out = rms_norm(x) * gain, f32 or bf16; out may be x.
  void (*rms_norm_f32)(const float* x, const float* gain, float eps, int64_t n, float* out);
  void (*rms_norm_bf16)(const float* x, const float* gain, float eps, int64_t n, uint16_t* out);
  /// Rotates one head; cos, sin [head_dim / 2].
  void (*rope)(float* x, const float* cos, const float* sin, int64_t head_dim);
  void (*to_bf16)(const float* x, int64_t n, uint16_t* out);
  /// out = act(gate) * up.
  void (*gated_silu)(const float* gate, const float* up, int64_t n, uint16_t* out);
  void (*gated_gelu_tanh)(const float* gate, const float* up, int64_t n, uint16_t* out);
  /// 16 rows of bf16 as blocks of a packed matrix: [columns / 32][16 pairs][16 rows][2], zeros past
  /// the last column.
  void (*pack_rows)(const uint16_t* const* rows, int64_t columns, uint16_t* out);
  /// 32 rows of bf16 as one block of the transposed matrix: tile i has [16 pairs of rows][16
  /// columns from 16 i][2], zeros past the last column; tiles `tile_stride` elements apart.
  void (*pack_columns)(const uint16_t* const* rows, int64_t columns, uint16_t* out,
                       int64_t tile_stride);
  /// 16 rows of bf16 as f32: [columns padded to 16][16 rows], and row by row [16][padded columns].
  void (*widen_transposed)(const uint16_t* const* rows, int64_t columns, float* out);
  void (*widen)(const uint16_t* row, int64_t columns, float* out);
  /// Attention of one row over one piece, merged into what the pieces before it gave.
  void (*attend_piece)(const PieceTask& task);
  /// Gives e^(old max - new max), which what was summed so far has to be multiplied by.
  float (*softmax_piece)(const SoftmaxTask& task);
  /// x *= factor; and out = x / divisor, rounded.
  void (*multiply_by)(float* x, int64_t n, float factor);
  void (*divide_to_bf16)(const float* x, int64_t n, float divisor, uint16_t* out);
  /// out = e^x, for tests.
  void (*exp)(const float* x, int64_t n, float* out);
};

extern const RowKernels kRowKernelsAvx2;
extern const RowKernels kRowKernelsAvx512;
extern const MatmulKernel kMatmulAvx2;
extern const MatmulKernel kMatmulAvx512;
extern const MatmulKernel kMatmulAmx;

}  // namespace fourfold::backend
