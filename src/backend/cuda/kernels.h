#pragma once

// What the kernels of the `cuda` backend are asked to do. Every function enqueues its work on a
// stream and returns the error of the launch. Pointers are device memory; bf16 values are passed as
// their bits.

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

namespace fourfold::backend::cuda {

inline constexpr int kMaxTargets = 4;
inline constexpr int kMaxSlices = 8;

/// Where the slices of K lie in a row of a weight, each padded with zeros to a multiple of 32
/// columns there.
struct Slices {
  int32_t count = 1;                           ///< a power of two
  int32_t stride = 0;                          ///< of a row of the weight, a multiple of 32
  std::array<int32_t, kMaxSlices> x_ends{};    ///< their ends in a row of x
  std::array<int32_t, kMaxSlices> w_begins{};  ///< their begins in a row of the weight
};

/// out[m][n] = sum over k of x[m][k] w[n][k], for up to kMaxTargets matrices w with the same K.
/// Each slice of K is summed by itself, 32 columns after another, and the slices are joined by the
/// binary tree, so an element's bits depend on its row of x, its row of w and the slices alone.
struct MatmulArgs {
  struct Target {
    const uint16_t* w = nullptr;  ///< [n][slices.stride], 16-byte aligned
    float* out = nullptr;         ///< [rows][n]
    int32_t n = 0;
  };
  const uint16_t* x = nullptr;  ///< [rows][k]
  int32_t rows = 0;
  int32_t k = 0;
  Slices slices;
  int32_t targets = 0;
  std::array<Target, kMaxTargets> target{};
  /// Of two targets of the same n instead: hidden[m][n] = act(first) * second, bf16.
  uint16_t* hidden = nullptr;
  bool gelu_tanh = false;
};
cudaError_t matmul(cudaStream_t stream, const MatmulArgs& args);
/// Up to so many rows weights are streamed, if x and the slices allow reads of 16 bytes. Only then
/// may `hidden` be given.
inline constexpr int kMostStreamedRows = 32;
bool streams(const MatmulArgs& args);

/// A paged cache of one layer, [blocks][kv_heads][block_size][head_dim].
struct CacheArgs {
  uint16_t* keys = nullptr;
  uint16_t* values = nullptr;
  const int32_t* block_tables = nullptr;  ///< [sequences][table_width]
  int32_t table_width = 0;
  int32_t blocks = 0;
  int32_t kv_heads = 0;
  int32_t block_size = 0;
  int32_t head_dim = 0;
};

/// Rows of a tile of attention, at most: backend::kTileRows.
inline constexpr int kAttentionTileRows = 128;
/// Positions of a piece of attention (docs/numerics.md).
inline constexpr int kPiece = 128;

struct AttentionArgs {
  const float* queries = nullptr;  ///< [rows][heads][head_dim]
  const int32_t* positions = nullptr;
  const int32_t* sequences = nullptr;
  const int32_t* tiles = nullptr;  ///< [tiles][2]: first row, rows; tiles of one row come first
  int32_t single_tiles = 0;
  int32_t all_tiles = 0;
  int32_t rows = 0;
  int32_t heads = 0;
  CacheArgs cache;
  float scale = 1.0F;
  int32_t window = 0;       ///< 0: none
  uint16_t* out = nullptr;  ///< [rows][heads][head_dim]
  /// Of tiles of one row: each piece has a block of its own, and the last one to finish merges
  /// them, if there is room for what the others leave: partial_floats() floats, and an arrival
  /// counter for each tile and group of queries, at most kMaxArrivals, zero before and after.
  int32_t pieces = 0;  ///< of the longest row, at most
  float* partials = nullptr;
  uint32_t* arrivals = nullptr;
};
inline constexpr int64_t kMaxArrivals = int64_t{1} << 16;
int64_t partial_floats(const AttentionArgs& args);
/// Whether there are counters enough.
bool may_split(const AttentionArgs& args);

/// The tiles of one row, and those of several; head_dim is at most 256.
cudaError_t attention_of_rows(cudaStream_t stream, const AttentionArgs& args);
cudaError_t attention_of_tiles(cudaStream_t stream, const AttentionArgs& args);

/// The tiles of one row in fast numerics, if decode_attention takes them. The maps are of the
/// cache's keys and values as rows of head_dim, boxes of 64 columns and decode_box_rows rows.
/// `partials` has room for decode_partial_floats, `arrivals` a counter for each tile and KV head.
bool takes_decodes(const AttentionArgs& args);
inline constexpr int kMostDecodeRows = 1024;
int decode_box_rows(int block_size);
int64_t decode_partial_floats(int head_dim);
cudaError_t decode_attention(cudaStream_t stream, const AttentionArgs& args,
                             const CUtensorMap& keys, const CUtensorMap& values);

/// The tiles of several rows in fast numerics, if prompt_attention takes such a cache. Boxes of the
/// maps have a block's rows.
bool takes_prompts(const AttentionArgs& args);
cudaError_t prompt_attention(cudaStream_t stream, const AttentionArgs& args,
                             const CUtensorMap& keys, const CUtensorMap& values);

/// Of the current device.
int multiprocessors();

cudaError_t embed(cudaStream_t stream, const uint16_t* table, const Slices& slices,
                  int64_t table_rows, const int32_t* tokens, int64_t first_token, float scale,
                  int64_t rows, int64_t width, float* out);
cudaError_t resolve_tokens(cudaStream_t stream, int32_t* tokens, const int32_t* ring, int64_t rows);
/// out f32 or, if that is null, bf16.
cudaError_t rms_norm(cudaStream_t stream, const float* x, const float* gain, float eps,
                     int64_t rows, int64_t width, float* out_f32, uint16_t* out_bf16);
/// x += y, and out = its norm.
cudaError_t add_norm(cudaStream_t stream, float* x, const float* y, const float* gain, float eps,
                     int64_t rows, int64_t width, uint16_t* out);
/// Of heads that are normed and rotated.
inline constexpr int64_t kMostHeadDim = 256;
cudaError_t norm_rope(cudaStream_t stream, float* x, const float* gain, float eps,
                      const int32_t* positions, const float* cos, const float* sin, int64_t rows,
                      int64_t heads, int64_t head_dim);
cudaError_t kv_write(cudaStream_t stream, const float* keys, const float* values,
                     const int32_t* positions, const int32_t* sequences, int64_t rows,
                     const CacheArgs& cache);
/// Norm, if there are gains, and rotation of queries and keys in place; keys and values go to the
/// cache.
struct RopeWriteArgs {
  /// [rows][heads + 2 kv_heads][head_dim]: where all three are read from instead; then the values
  /// are written, too. Or null.
  const float* joint = nullptr;
  float* queries = nullptr;  ///< [rows][heads][head_dim]
  float* keys = nullptr;     ///< [rows][kv_heads][head_dim], as are the values
  float* values = nullptr;
  const float* query_gain = nullptr;  ///< [head_dim], or null
  const float* key_gain = nullptr;
  float eps = 0;
  const int32_t* positions = nullptr;
  const int32_t* sequences = nullptr;
  const float* cos = nullptr;  ///< [positions][head_dim / 2]
  const float* sin = nullptr;
  int64_t rows = 0;
  int64_t heads = 0;
  CacheArgs cache;
};
cudaError_t rope_write(cudaStream_t stream, const RopeWriteArgs& args);
cudaError_t gated_activation(cudaStream_t stream, bool gelu_tanh, const float* gate,
                             const float* up, int64_t elements, uint16_t* out);
/// The same of bf16 factors in rows `stride` apart. All is 16-byte aligned; width and stride are
/// multiples of 8.
struct GatedArgs {
  const uint16_t* gate = nullptr;
  const uint16_t* up = nullptr;
  int64_t rows = 0;
  int64_t width = 0;
  int64_t stride = 0;
  uint16_t* out = nullptr;  ///< [rows][width]
};
cudaError_t gated_activation_of_bf16(cudaStream_t stream, bool gelu_tanh, const GatedArgs& args);
/// Takes columns of x [rows][sum of n] apart; each n is a multiple of 4, and all is 16-byte
/// aligned.
struct SplitArgs {
  struct Target {
    float* out = nullptr;  ///< [rows][n]
    int32_t n = 0;
  };
  const float* x = nullptr;
  int32_t rows = 0;
  int32_t targets = 0;
  std::array<Target, kMaxTargets> target{};
};
cudaError_t split_columns(cudaStream_t stream, const SplitArgs& args);
/// Up to so many rows it is worth it to multiply several matrices at once and split the result.
inline constexpr int64_t kMostJointRows = 512;
cudaError_t to_bf16(cudaStream_t stream, const float* x, int64_t elements, uint16_t* out);
cudaError_t add(cudaStream_t stream, float* x, const float* y, int64_t elements);
cudaError_t add_bias(cudaStream_t stream, float* x, const float* bias, int64_t rows, int64_t width);
cudaError_t gate_rows(cudaStream_t stream, float* x, const float* gate, int64_t rows,
                      int64_t width);
/// Rows of `row_bytes` bytes, a multiple of 2.
cudaError_t gather_rows(cudaStream_t stream, const void* x, const int32_t* indices, int64_t rows,
                        int64_t row_bytes, void* out);
cudaError_t combine_slots(cudaStream_t stream, const uint16_t* y, const float* weights,
                          int64_t rows, int64_t slots, int64_t width, float* out);
/// Copies columns [from_begin, from_begin + count) of x [rows][x_stride] to those at to_begin of
/// out [rows][out_stride].
cudaError_t copy_columns(cudaStream_t stream, const float* x, int64_t x_stride, int64_t from_begin,
                         float* out, int64_t out_stride, int64_t to_begin, int64_t rows,
                         int64_t count);
/// draws: backend::Draw of each row. `width` is at most kMostDrawn.
cudaError_t draw_rows(cudaStream_t stream, const float* logits, const int32_t* draws, int64_t rows,
                      int64_t width, int32_t* out);
inline constexpr int64_t kMostDrawn = int64_t{1} << 21;

/// Fills memory with bf16 of either sign between 1/2 and 2, in no order: what is alike everywhere
/// takes less power, and then more work gets done.
cudaError_t fill_without_order(cudaStream_t stream, void* data, int64_t bytes);
/// Reads `bytes` bytes, a multiple of 16, as quickly as the memory gives them; `sink` is one word.
cudaError_t read_memory(cudaStream_t stream, const void* data, int64_t bytes, uint32_t* sink);
/// Runs mma of bf16 in registers, all multiprocessors; gives the FLOPs of one `steps`.
cudaError_t compute_in_registers(cudaStream_t stream, int64_t steps, float* sink, double* flops);

/// Ends in an error, after which nothing works any more that uses this GPU in this process.
cudaError_t trap(cudaStream_t stream);

}  // namespace fourfold::backend::cuda
