// Everything that works on rows by themselves: norms, rotary embedding, the cache's writes,
// activations, copies. Reductions have one order for each width, whatever the other rows are.

#include <cfloat>

#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels.h"

namespace fourfold::backend::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t items, int64_t per_block = kThreads) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

__global__ void embed_kernel(const uint16_t* table, const __grid_constant__ Slices slices,
                             int64_t table_rows, const int32_t* tokens, int64_t first_token,
                             float scale, int64_t width, float* out) {
  wait_for_inputs();
  let_next_start();
  const int64_t row = blockIdx.x;
  const int64_t token = tokens[row] - first_token;
  const bool here = 0 <= token && token < table_rows;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    size_t slice = 0;
    while (i >= slices.x_ends[slice]) ++slice;
    const int64_t begin = slice == 0 ? 0 : slices.x_ends[slice - 1];
    const int64_t at = token * slices.stride + slices.w_begins[slice] + i - begin;
    const float value = here ? from_bf16_bits(table[at]) : 0.0F;
    out[row * width + i] = __fadd_rn(__fmul_rn(value, scale), 0.0F);
  }
}

__global__ void resolve_tokens_kernel(int32_t* tokens, const int32_t* ring, int64_t count) {
  wait_for_inputs();
  let_next_start();
  const int64_t i = global_thread();
  if (i < count && tokens[i] < 0) tokens[i] = ring[-1 - tokens[i]];
}

constexpr int kNormThreads = 256;  // several rows at once on a multiprocessor
/// Values of a row that a thread keeps in registers; what is further is read again.
constexpr int kKept = 16;

/// Values that a thread takes at once.
template <int kWide>
struct __align__(4 * kWide) Pack {
  float v[kWide];
};

/// A block takes a row: adds y to it, if there is one, and norms it. Thread t takes the packs t,
/// t + kNormThreads, ... of the row.
template <int kWide>
__global__ void __launch_bounds__(kNormThreads)
    rms_norm_kernel(float* x, const float* y, const float* gain, float eps, int64_t width,
                    float* out_f32, uint16_t* out_bf16) {
  using P = Pack<kWide>;
  constexpr int kPacks = kKept / kWide;
  __shared__ float warp_sums[kNormThreads / 32];
  const int64_t packs = width / kWide;
  P* row = reinterpret_cast<P*>(x + blockIdx.x * width);
  const P* more = y == nullptr ? nullptr : reinterpret_cast<const P*>(y + blockIdx.x * width);
  const P* gains = reinterpret_cast<const P*>(gain);
  const auto at = [&](int u) { return threadIdx.x + int64_t{u} * kNormThreads; };
  wait_for_inputs();
  let_next_start();
  P kept[kPacks] = {};
  P added[kPacks] = {};
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    if (at(u) >= packs) break;
    kept[u] = row[at(u)];
    if (more != nullptr) added[u] = more[at(u)];
  }
  float squares = 0;
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    if (at(u) >= packs) break;
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      if (more != nullptr) kept[u].v[i] = __fadd_rn(kept[u].v[i], added[u].v[i]);
      squares = __fmaf_rn(kept[u].v[i], kept[u].v[i], squares);
    }
    if (more != nullptr) row[at(u)] = kept[u];
  }
  for (int64_t p = at(kPacks); p < packs; p += kNormThreads) {
    P pack = row[p];
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      if (more != nullptr) pack.v[i] = __fadd_rn(pack.v[i], more[p].v[i]);
      squares = __fmaf_rn(pack.v[i], pack.v[i], squares);
    }
    if (more != nullptr) row[p] = pack;
  }
  squares = warp_sum(squares);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = squares;
  __syncthreads();
  constexpr int kWarps = kNormThreads / 32;
  squares = warp_sum(threadIdx.x % 32 < kWarps ? warp_sums[threadIdx.x % 32] : 0.0F);
  const float r =
      __fdiv_rn(1.0F, __fsqrt_rn(__fadd_rn(__fdiv_rn(squares, static_cast<float>(width)), eps)));
  const auto put = [&](int64_t p, const P& values) {
    const P g = gains[p];
    P normed;
#pragma unroll
    for (int i = 0; i < kWide; ++i) normed.v[i] = __fmul_rn(__fmul_rn(values.v[i], r), g.v[i]);
    const int64_t to = blockIdx.x * width + p * kWide;
    if (out_f32 != nullptr) {
      *reinterpret_cast<P*>(out_f32 + to) = normed;
    } else if constexpr (kWide == 4) {
      const uint32_t low = to_bf16_bits(normed.v[0]) | uint32_t{to_bf16_bits(normed.v[1])} << 16;
      const uint32_t high = to_bf16_bits(normed.v[2]) | uint32_t{to_bf16_bits(normed.v[3])} << 16;
      *reinterpret_cast<uint2*>(out_bf16 + to) = {low, high};
    } else {
      out_bf16[to] = to_bf16_bits(normed.v[0]);
    }
  };
#pragma unroll
  for (int u = 0; u < kPacks; ++u) {
    if (at(u) >= packs) break;
    put(at(u), kept[u]);
  }
  for (int64_t p = at(kPacks); p < packs; p += kNormThreads) put(p, row[p]);
}

constexpr int kMostHalves = kMostHeadDim / 64;  ///< of 32 pairs, that a lane has parts of

/// A lane's part of a head: pairs (i, i + head_dim / 2) for i = lane, lane + 32, ...
struct HeadPart {
  float a[kMostHalves];
  float b[kMostHalves];

  __device__ void read(const float* head, int half, int lane) {
#pragma unroll
    for (int j = 0; j < kMostHalves; ++j) {
      const int i = lane + 32 * j;
      a[j] = i < half ? head[i] : 0.0F;
      b[j] = i < half ? head[i + half] : 0.0F;
    }
  }
  template <typename Put>
  __device__ void write(int half, int lane, const Put& put) const {
#pragma unroll
    for (int j = 0; j < kMostHalves; ++j) {
      const int i = lane + 32 * j;
      if (i >= half) break;
      put(i, a[j]);
      put(i + half, b[j]);
    }
  }
  /// Norms it, over the warp.
  __device__ void norm(const float* gain, float eps, int half, int lane) {
    float squares = 0;
#pragma unroll
    for (int j = 0; j < kMostHalves; ++j) {
      squares = __fmaf_rn(a[j], a[j], squares);
      squares = __fmaf_rn(b[j], b[j], squares);
    }
    squares = warp_sum(squares);
    const float mean = __fdiv_rn(squares, static_cast<float>(2 * half));
    const float r = __fdiv_rn(1.0F, __fsqrt_rn(__fadd_rn(mean, eps)));
#pragma unroll
    for (int j = 0; j < kMostHalves; ++j) {
      const int i = lane + 32 * j;
      if (i >= half) break;
      a[j] = __fmul_rn(__fmul_rn(a[j], r), gain[i]);
      b[j] = __fmul_rn(__fmul_rn(b[j], r), gain[i + half]);
    }
  }
  /// Rotates it by the angles whose cosines and sines `angles` has.
  __device__ void rotate(const HeadPart& angles) {
#pragma unroll
    for (int j = 0; j < kMostHalves; ++j) {
      const float left = a[j];
      a[j] = __fmaf_rn(-b[j], angles.b[j], __fmul_rn(left, angles.a[j]));
      b[j] = __fmaf_rn(left, angles.b[j], __fmul_rn(b[j], angles.a[j]));
    }
  }
};

/// Cosines and sines of a position.
__device__ inline HeadPart angles_of(const float* cos, const float* sin, int64_t position, int half,
                                     int lane) {
  HeadPart out;
#pragma unroll
  for (int j = 0; j < kMostHalves; ++j) {
    const int i = lane + 32 * j;
    out.a[j] = i < half ? cos[position * half + i] : 0.0F;
    out.b[j] = i < half ? sin[position * half + i] : 0.0F;
  }
  return out;
}

/// Where the cache holds a head of a row.
__device__ inline int64_t cache_index(const CacheArgs& cache, int64_t position, int64_t sequence,
                                      int64_t head) {
  const int64_t block =
      cache.block_tables[sequence * cache.table_width + position / cache.block_size];
  return ((block * cache.kv_heads + head) * cache.block_size + position % cache.block_size) *
         cache.head_dim;
}

constexpr int kHeadsOfBlock = kThreads / 32;

/// A warp takes one head of one row.
__global__ void __launch_bounds__(kThreads)
    norm_rope_kernel(float* x, const float* gain, float eps, const int32_t* positions,
                     const float* cos, const float* sin, int64_t count, int64_t heads,
                     int64_t head_dim) {
  wait_for_inputs();
  let_next_start();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kHeadsOfBlock + threadIdx.x / 32;
  if (item >= count) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int half = static_cast<int>(head_dim / 2);
  float* head = x + item * head_dim;
  HeadPart part;
  part.read(head, half, lane);
  if (gain != nullptr) part.norm(gain, eps, half, lane);
  part.rotate(angles_of(cos, sin, positions[item / heads], half, lane));
  part.write(half, lane, [&](int i, float value) { head[i] = value; });
}

/// Blocks of one row take heads of it in turns, a warp one: those of the queries, then of the keys,
/// which also go to the cache, then of the values, which are left as they are.
__global__ void __launch_bounds__(kThreads)
    rope_write_kernel(const __grid_constant__ RopeWriteArgs a) {
  constexpr int kAtOnce = 3;  // heads that a warp reads before it writes one
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int d = a.cache.head_dim;
  const int half = d / 2;
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto queries = static_cast<int>(a.heads);
  const int keys_end = queries + a.cache.kv_heads;
  const int heads = keys_end + a.cache.kv_heads;
  // Inputs of the step, and tables: no kernel before this one writes them.
  const int64_t position = a.positions[row];
  const int64_t to = cache_index(a.cache, position, a.sequences[row], 0);
  const HeadPart angles = angles_of(a.cos, a.sin, position, half, lane);
  wait_for_inputs();
  let_next_start();
  const int stride = kHeadsOfBlock * static_cast<int>(gridDim.y);
  const auto place = [&](int head) -> float* {
    if (head < queries) return a.queries + (row * queries + head) * d;
    const bool is_key = head < keys_end;
    const int kv_head = head - (is_key ? queries : keys_end);
    return (is_key ? a.keys : a.values) + (row * a.cache.kv_heads + kv_head) * d;
  };
  const auto source = [&](int head) -> const float* {
    return a.joint != nullptr ? a.joint + (row * heads + head) * d : place(head);
  };
  for (int first =
           static_cast<int>(blockIdx.y) * kHeadsOfBlock + static_cast<int>(threadIdx.x) / 32;
       first < heads; first += kAtOnce * stride) {
    HeadPart parts[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int head = first + u * stride;
      if (head < heads) parts[u].read(source(head), half, lane);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int head = first + u * stride;
      if (head >= heads) break;
      HeadPart& part = parts[u];
      if (head < keys_end) {
        const float* gain = head < queries ? a.query_gain : a.key_gain;
        if (gain != nullptr) part.norm(gain, a.eps, half, lane);
        part.rotate(angles);
      }
      if (head < keys_end || a.joint != nullptr) {
        float* out = place(head);
        part.write(half, lane, [&](int i, float value) { out[i] = value; });
      }
      if (head < queries) continue;
      const bool is_key = head < keys_end;
      const int64_t of_head =
          int64_t{head - (is_key ? queries : keys_end)} * a.cache.block_size * d;
      uint16_t* cached = (is_key ? a.cache.keys : a.cache.values) + to + of_head;
      part.write(half, lane, [&](int i, float value) { cached[i] = to_bf16_bits(value); });
    }
  }
}

__global__ void kv_write_kernel(const float* keys, const float* values, const int32_t* positions,
                                const int32_t* sequences, int64_t count, CacheArgs cache) {
  wait_for_inputs();
  let_next_start();
  const int64_t i = global_thread();
  if (i >= count) return;
  const int64_t width = static_cast<int64_t>(cache.kv_heads) * cache.head_dim;
  const int64_t row = i / width;
  const int64_t to =
      cache_index(cache, positions[row], sequences[row], i % width / cache.head_dim) +
      i % cache.head_dim;
  cache.keys[to] = to_bf16_bits(keys[i]);
  cache.values[to] = to_bf16_bits(values[i]);
}

template <bool kGelu>
__global__ void gated_activation_kernel(const float* gate, const float* up, int64_t count,
                                        uint16_t* out) {
  wait_for_inputs();
  let_next_start();
  const int64_t i = global_thread();
  if (i < count) out[i] = to_bf16_bits(gated<kGelu>(gate[i], up[i]));
}

/// Eight elements a thread.
template <bool kGelu>
__global__ void gated_activation_of_bf16_kernel(const __grid_constant__ GatedArgs a) {
  wait_for_inputs();
  let_next_start();
  const int64_t begin = global_thread() * 8;
  if (begin >= a.rows * a.width) return;
  const int64_t from = begin / a.width * a.stride + begin % a.width;
  const uint4 g = *reinterpret_cast<const uint4*>(a.gate + from);
  const uint4 u = *reinterpret_cast<const uint4*>(a.up + from);
  const auto one = [](uint32_t gate, uint32_t up) -> uint32_t {
    return to_bf16_bits(gated<kGelu>(from_bf16_bits(static_cast<uint16_t>(gate)),
                                     from_bf16_bits(static_cast<uint16_t>(up))));
  };
  const auto two = [&](uint32_t gs, uint32_t us) {
    return one(gs & 0xffffU, us & 0xffffU) | one(gs >> 16, us >> 16) << 16;
  };
  *reinterpret_cast<uint4*>(a.out + begin) =
      make_uint4(two(g.x, u.x), two(g.y, u.y), two(g.z, u.z), two(g.w, u.w));
}

/// A thread takes four columns of a row; a target has a multiple of four.
__global__ void split_columns_kernel(const __grid_constant__ SplitArgs a, int64_t width) {
  wait_for_inputs();
  let_next_start();
  const int64_t at = global_thread() * 4;
  if (at >= a.rows * width) return;
  const int64_t row = at / width;
  auto column = static_cast<int>(at % width);
  int t = 0;
  for (; column >= a.target[static_cast<size_t>(t)].n; ++t) {
    column -= a.target[static_cast<size_t>(t)].n;
  }
  const auto& target = a.target[static_cast<size_t>(t)];
  *reinterpret_cast<float4*>(target.out + row * target.n + column) =
      *reinterpret_cast<const float4*>(a.x + at);
}

__global__ void to_bf16_kernel(const float* x, int64_t count, uint16_t* out) {
  wait_for_inputs();
  let_next_start();
  const int64_t i = global_thread();
  if (i < count) out[i] = to_bf16_bits(x[i]);
}

__global__ void add_kernel(float* x, const float* y, int64_t count) {
  wait_for_inputs();
  let_next_start();
  const int64_t i = global_thread();
  if (i < count) x[i] = __fadd_rn(x[i], y[i]);
}

__global__ void add_bias_kernel(float* x, const float* bias, int64_t count, int64_t width) {
  wait_for_inputs();
  let_next_start();
  const int64_t i = global_thread();
  if (i < count) x[i] = __fadd_rn(x[i], bias[i % width]);
}

__global__ void gate_rows_kernel(float* x, const float* gate, int64_t count, int64_t width) {
  wait_for_inputs();
  let_next_start();
  const int64_t i = global_thread();
  if (i >= count) return;
  const float factor = __fdiv_rn(1.0F, __fadd_rn(1.0F, expf(-gate[i / width])));
  x[i] = __fmul_rn(x[i], factor);
}

__global__ void gather_rows_kernel(const uint16_t* x, const int32_t* indices, int64_t row_words,
                                   uint16_t* out) {
  wait_for_inputs();
  let_next_start();
  const int64_t from = static_cast<int64_t>(indices[blockIdx.x]) * row_words;
  const int64_t to = static_cast<int64_t>(blockIdx.x) * row_words;
  for (int64_t i = threadIdx.x; i < row_words; i += blockDim.x) out[to + i] = x[from + i];
}

__global__ void combine_slots_kernel(const uint16_t* y, const float* weights, int64_t count,
                                     int64_t slots, int64_t width, float* out) {
  wait_for_inputs();
  let_next_start();
  const int64_t i = global_thread();
  if (i >= count) return;
  const int64_t row = i / width;
  const int64_t column = i % width;
  float sum = 0;
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int64_t from = row * slots + slot;
    sum = __fadd_rn(sum, __fmul_rn(weights[from], from_bf16_bits(y[from * width + column])));
  }
  out[i] = sum;
}

__global__ void copy_columns_kernel(const float* x, int64_t x_stride, float* out,
                                    int64_t out_stride, int64_t total, int64_t count) {
  wait_for_inputs();
  let_next_start();
  const int64_t i = global_thread();
  if (i >= total) return;
  out[i / count * out_stride + i % count] = x[i / count * x_stride + i % count];
}

/// x is written only if there is a y.
cudaError_t launch_norm(cudaStream_t stream, float* x, const float* y, const float* gain, float eps,
                        int64_t rows, int64_t width, float* out_f32, uint16_t* out_bf16) {
  if (rows == 0) return cudaSuccess;
  auto* kernel = width % 4 == 0 ? rms_norm_kernel<4> : rms_norm_kernel<1>;
  return launch_early(kernel, static_cast<unsigned>(rows), kNormThreads, 0, stream, x, y, gain, eps,
                      width, out_f32, out_bf16);
}

}  // namespace

int multiprocessors() {
  static const int kCount = [] {
    int device = 0;
    int count = 1;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    return count;
  }();
  return kCount;
}

cudaError_t embed(cudaStream_t stream, const uint16_t* table, const Slices& slices,
                  int64_t table_rows, const int32_t* tokens, int64_t first_token, float scale,
                  int64_t rows, int64_t width, float* out) {
  if (rows == 0) return cudaSuccess;
  return launch_early(embed_kernel, static_cast<unsigned>(rows), kThreads, 0, stream, table, slices,
                      table_rows, tokens, first_token, scale, width, out);
}

cudaError_t resolve_tokens(cudaStream_t stream, int32_t* tokens, const int32_t* ring,
                           int64_t rows) {
  if (rows == 0) return cudaSuccess;
  return launch_early(resolve_tokens_kernel, blocks_for(rows), kThreads, 0, stream, tokens, ring,
                      rows);
}

cudaError_t rms_norm(cudaStream_t stream, const float* x, const float* gain, float eps,
                     int64_t rows, int64_t width, float* out_f32, uint16_t* out_bf16) {
  return launch_norm(stream, const_cast<float*>(x), nullptr, gain, eps, rows, width, out_f32,
                     out_bf16);
}

cudaError_t add_norm(cudaStream_t stream, float* x, const float* y, const float* gain, float eps,
                     int64_t rows, int64_t width, uint16_t* out) {
  return launch_norm(stream, x, y, gain, eps, rows, width, nullptr, out);
}

cudaError_t norm_rope(cudaStream_t stream, float* x, const float* gain, float eps,
                      const int32_t* positions, const float* cos, const float* sin, int64_t rows,
                      int64_t heads, int64_t head_dim) {
  const int64_t count = rows * heads;
  if (count == 0) return cudaSuccess;
  return launch_early(norm_rope_kernel, blocks_for(count, kThreads / 32), kThreads, 0, stream, x,
                      gain, eps, positions, cos, sin, count, heads, head_dim);
}

cudaError_t kv_write(cudaStream_t stream, const float* keys, const float* values,
                     const int32_t* positions, const int32_t* sequences, int64_t rows,
                     const CacheArgs& cache) {
  const int64_t count = rows * cache.kv_heads * cache.head_dim;
  if (count == 0) return cudaSuccess;
  return launch_early(kv_write_kernel, blocks_for(count), kThreads, 0, stream, keys, values,
                      positions, sequences, count, cache);
}

cudaError_t rope_write(cudaStream_t stream, const RopeWriteArgs& args) {
  if (args.rows == 0) return cudaSuccess;
  const unsigned most = blocks_for(args.heads + int64_t{2} * args.cache.kv_heads, kHeadsOfBlock);
  constexpr int64_t kManyRows = 256;  // as many blocks without cutting rows
  const dim3 grid(static_cast<unsigned>(args.rows), args.rows < kManyRows ? most : 1);
  return launch_early(rope_write_kernel, grid, kThreads, 0, stream, args);
}

cudaError_t gated_activation(cudaStream_t stream, bool gelu_tanh, const float* gate,
                             const float* up, int64_t elements, uint16_t* out) {
  if (elements == 0) return cudaSuccess;
  auto* kernel = gelu_tanh ? gated_activation_kernel<true> : gated_activation_kernel<false>;
  return launch_early(kernel, blocks_for(elements), kThreads, 0, stream, gate, up, elements, out);
}

cudaError_t gated_activation_of_bf16(cudaStream_t stream, bool gelu_tanh, const GatedArgs& args) {
  const int64_t elements = args.rows * args.width;
  if (elements == 0) return cudaSuccess;
  auto* kernel =
      gelu_tanh ? gated_activation_of_bf16_kernel<true> : gated_activation_of_bf16_kernel<false>;
  return launch_early(kernel, blocks_for(elements / 8), kThreads, 0, stream, args);
}

cudaError_t split_columns(cudaStream_t stream, const SplitArgs& args) {
  if (args.rows == 0) return cudaSuccess;
  int64_t width = 0;
  for (int t = 0; t < args.targets; ++t) width += args.target[static_cast<size_t>(t)].n;
  return launch_early(split_columns_kernel, blocks_for(args.rows * width / 4), kThreads, 0, stream,
                      args, width);
}

cudaError_t to_bf16(cudaStream_t stream, const float* x, int64_t elements, uint16_t* out) {
  if (elements == 0) return cudaSuccess;
  return launch_early(to_bf16_kernel, blocks_for(elements), kThreads, 0, stream, x, elements, out);
}

cudaError_t add(cudaStream_t stream, float* x, const float* y, int64_t elements) {
  if (elements == 0) return cudaSuccess;
  return launch_early(add_kernel, blocks_for(elements), kThreads, 0, stream, x, y, elements);
}

cudaError_t add_bias(cudaStream_t stream, float* x, const float* bias, int64_t rows,
                     int64_t width) {
  if (rows * width == 0) return cudaSuccess;
  return launch_early(add_bias_kernel, blocks_for(rows * width), kThreads, 0, stream, x, bias,
                      rows * width, width);
}

cudaError_t gate_rows(cudaStream_t stream, float* x, const float* gate, int64_t rows,
                      int64_t width) {
  if (rows * width == 0) return cudaSuccess;
  return launch_early(gate_rows_kernel, blocks_for(rows * width), kThreads, 0, stream, x, gate,
                      rows * width, width);
}

cudaError_t gather_rows(cudaStream_t stream, const void* x, const int32_t* indices, int64_t rows,
                        int64_t row_bytes, void* out) {
  if (rows == 0) return cudaSuccess;
  return launch_early(gather_rows_kernel, static_cast<unsigned>(rows), kThreads, 0, stream,
                      static_cast<const uint16_t*>(x), indices, row_bytes / 2,
                      static_cast<uint16_t*>(out));
}

cudaError_t combine_slots(cudaStream_t stream, const uint16_t* y, const float* weights,
                          int64_t rows, int64_t slots, int64_t width, float* out) {
  if (rows * width == 0) return cudaSuccess;
  return launch_early(combine_slots_kernel, blocks_for(rows * width), kThreads, 0, stream, y,
                      weights, rows * width, slots, width, out);
}

cudaError_t copy_columns(cudaStream_t stream, const float* x, int64_t x_stride, int64_t from_begin,
                         float* out, int64_t out_stride, int64_t to_begin, int64_t rows,
                         int64_t count) {
  if (rows * count <= 0) return cudaSuccess;
  return launch_early(copy_columns_kernel, blocks_for(rows * count), kThreads, 0, stream,
                      x + from_begin, x_stride, out + to_begin, out_stride, rows * count, count);
}

}  // namespace fourfold::backend::cuda
