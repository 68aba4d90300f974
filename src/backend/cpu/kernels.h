#pragma once

// Included by files that are compiled for one instruction set. It and they include no header with
// inline functions that others use too: the linker keeps one copy of such a function, and it could
// be the one that another machine cannot run.

#include <cstdint>

namespace fourfold::backend {

/// The most output tiles of 16 columns and rows of one matmul task.
inline constexpr int64_t kMaxTaskTiles = 12;
inline constexpr int64_t kMaxTaskRows = 128;

/// One slice of K of some rows times some tiles: out[row][tile * 16 + lane].
struct MatmulTask {
  const void* x;        ///< [rows][x_stride], bf16 or f32 as the kernel wants, padded as the slice
  int64_t x_stride;     ///< elements from row to row
  int64_t rows;         ///< a multiple of the kernel's row_multiple
  const uint16_t* w;    ///< the slice in the first tile: [blocks][16][16][2]
  int64_t tile_stride;  ///< elements from tile to tile
  int64_t tiles;
  int64_t blocks;  ///< of 32 columns; at least one
  float* out;      ///< [rows][out_stride]
  int64_t out_stride;
};

struct MatmulKernel {
  void (*run)(const MatmulTask& task);
  int64_t tiles;         ///< it computes at once; divides kMaxTaskTiles
  int64_t row_multiple;  ///< rows it computes at once whether needed or not
  bool f32_rows;         ///< x is f32 (exactly bf16 values), else bf16
  /// Runs the kernel's instruction on registers alone, `steps` times 12 or more; the FLOPs done.
  double (*compute_in_registers)(int64_t steps);
};

/// The query heads of one row that share one KV head.
struct AttentionTask {
  const float* queries;  ///< [heads][head_dim]
  int64_t heads;
  int64_t head_dim;
  float scale;
  const uint16_t* keys;    ///< bf16, of this KV head in block 0
  const uint16_t* values;  ///< the same
  const int32_t* blocks;   ///< of the sequence
  int64_t block_size;
  int64_t block_stride;  ///< elements from block to block
  int64_t begin;         ///< first position
  int64_t end;           ///< past the row's own position
  float* scratch;        ///< [128 + heads * (head_dim + 2)]
  uint16_t* out;         ///< bf16 [heads][head_dim]
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
  void (*attention)(const AttentionTask& task);
  /// out = e^x, for tests.
  void (*exp)(const float* x, int64_t n, float* out);
};

extern const RowKernels kRowKernelsAvx2;
extern const RowKernels kRowKernelsAvx512;
extern const MatmulKernel kMatmulAvx2;
extern const MatmulKernel kMatmulAvx512;
extern const MatmulKernel kMatmulAmx;

}  // namespace fourfold::backend
