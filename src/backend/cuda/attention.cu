// Attention over a paged cache. A block takes a tile of queries (rows of one sequence times the
// query heads of one KV head) and one piece of 128 positions after another: scores are mma of keys
// by queries, sums mma of values by weights, so that queries are always the columns of the right
// operand and a query's bits do not depend on how many stand beside it. Each piece is computed by
// itself and merged into those before it (docs/numerics.md): by the block as it goes or, where each
// piece has a block of its own, by the block that is done last, with the same operations.

#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels.h"

namespace fourfold::backend::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr float kMinusInfinity = -INFINITY;
constexpr int kPad = 8;  ///< bf16 after each row in shared memory, against bank conflicts

/// m and l of the softmax so far, base 2, and the factors of the next merge.
struct Merge {
  float old_factor;
  float new_factor;
};

__device__ inline Merge merge_factors(float old_max, float new_max) {
  const float max = fmaxf(old_max, new_max);
  return {old_max == kMinusInfinity ? 0.0F : power_of_two(old_max - max),
          new_max == kMinusInfinity ? 0.0F : power_of_two(new_max - max)};
}

__device__ inline float merged(float old_value, float new_value, Merge factors) {
  return __fmaf_rn(new_value, factors.new_factor, __fmul_rn(old_value, factors.old_factor));
}

/// Where a piece of a head of a single-row tile is among the partials: sums of all, then their
/// maximum and sum of weights.
__device__ inline int64_t partial_index(const AttentionArgs& a, int64_t tile, int64_t head,
                                        int64_t piece) {
  return (tile * a.heads + head) * a.pieces + piece;
}
__device__ inline float2* partial_stats(const AttentionArgs& a) {
  return reinterpret_cast<float2*>(a.partials + static_cast<int64_t>(a.single_tiles) * a.heads *
                                                    a.pieces * a.cache.head_dim);
}

/// Merges the pieces [begin, end) of one head of a row; a warp does it.
__device__ void merge_pieces(const AttentionArgs& a, int64_t tile, int64_t head, int begin, int end,
                             uint16_t* out, int lane) {
  const int d = a.cache.head_dim;
  constexpr int kColumns = 256 / 32;  // of a lane
  constexpr int kAtOnce = 4;
  float run[kColumns] = {};
  float max = kMinusInfinity;
  float sum = 0;
  const int64_t first = partial_index(a, tile, head, 0);
  for (int base = begin; base < end; base += 32) {
    const int count = min(32, end - base);
    float2 stats = make_float2(kMinusInfinity, 0);
    if (lane < count) stats = __ldcg(partial_stats(a) + first + base + lane);
    for (int p = 0; p < count; p += kAtOnce) {
      float values[kAtOnce][kColumns];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const float* from = a.partials + (first + base + min(p + u, count - 1)) * d;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          values[u][c] = c * 32 + lane < d ? __ldcg(from + c * 32 + lane) : 0.0F;
        }
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const float piece_max = __shfl_sync(0xffffffffu, stats.x, (p + u) % 32);
        const float piece_sum = __shfl_sync(0xffffffffu, stats.y, (p + u) % 32);
        if (p + u >= count) continue;
        const Merge factors = merge_factors(max, piece_max);
        max = fmaxf(max, piece_max);
        sum = merged(sum, piece_sum, factors);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) run[c] = merged(run[c], values[u][c], factors);
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (c * 32 + lane < d) out[c * 32 + lane] = to_bf16_bits(__fdiv_rn(run[c], sum));
  }
}

/// Shared memory of a block: head_dim is rounded up to 16 * kDepth, queries to 8 * kQueryTiles.
template <int kDepth, int kQueryTiles>
struct Layout {
  static constexpr int kStride = 16 * kDepth + kPad;  ///< of keys, values and queries
  static constexpr int kWeightStride = kPiece + kPad;
  static constexpr int kQueries = 8 * kQueryTiles;
  static constexpr int kKeys = 0;  ///< offsets in bf16
  static constexpr int kValues = kKeys + kPiece * kStride;
  static constexpr int kQueryRows = kValues + kPiece * kStride;
  static constexpr int kWeights = kQueryRows + kQueries * kStride;
  static constexpr int kBytes = 2 * (kWeights + kQueries * kWeightStride);
};

/// What a block works on.
struct Work {
  int first_row;      ///< of the step
  int first_query;    ///< of that row's and the next ones' queries, head after head
  int queries;        ///< of this block
  int last_position;  ///< of the last row
  int head;           ///< KV head
  int per_head;       ///< query heads of a KV head
  int first_piece;
  int end_piece;
  bool apart;  ///< one piece, to partials
};

template <int kDepth, int kQueryTiles>
__device__ void attend(const AttentionArgs& a, const Work& work, uint16_t* shared) {
  using L = Layout<kDepth, kQueryTiles>;
  __shared__ int64_t offsets[2][kPiece];  // of each position's row in the cache; -1: none
  __shared__ float warp_maxima[kWarps][L::kQueries];
  __shared__ float warp_sums[kWarps][L::kQueries];
  __shared__ float run_max[L::kQueries];
  __shared__ float run_sum[L::kQueries];
  __shared__ Merge factors[L::kQueries];
  __shared__ int first_position[L::kQueries];  // of the window of each query
  __shared__ int last_position[L::kQueries];

  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int group = lane / 4;
  const int quad = lane % 4;
  const int d = a.cache.head_dim;
  uint16_t* keys = shared + L::kKeys;
  uint16_t* values = shared + L::kValues;
  uint16_t* queries = shared + L::kQueryRows;
  uint16_t* weights = shared + L::kWeights;

  // Row and head of a query of this block.
  const auto row_of = [&](int query) {
    return work.first_row + (work.first_query + query) / work.per_head;
  };
  const auto head_of = [&](int query) {
    return work.head * work.per_head + (work.first_query + query) % work.per_head;
  };
  wait_for_inputs();
  let_next_start();
  for (int query = warp; query < L::kQueries; query += kWarps) {
    const bool here = query < work.queries;
    const float* from =
        a.queries +
        (here ? (static_cast<int64_t>(row_of(query)) * a.heads + head_of(query)) * d : 0);
#pragma unroll
    for (int column = lane; column < 16 * kDepth; column += 32) {
      queries[query * L::kStride + column] = to_bf16_bits(here && column < d ? from[column] : 0.0F);
    }
  }
  for (int query = thread; query < L::kQueries; query += kThreads) {
    run_max[query] = kMinusInfinity;
    run_sum[query] = 0;
    const int last = query < work.queries ? a.positions[row_of(query)] : -1;
    last_position[query] = last;
    first_position[query] = a.window > 0 ? max(0, last - a.window + 1) : 0;
  }
  const int tile_last = work.last_position;
  const int tile_first = a.window > 0 ? max(0, a.positions[work.first_row] - a.window + 1) : 0;
  const int32_t* table = a.cache.block_tables +
                         static_cast<int64_t>(a.sequences[work.first_row]) * a.cache.table_width;

  constexpr int kRowTiles = (kDepth + kWarps - 1) / kWarps;  // of values' columns, a warp
  float run[kRowTiles][kQueryTiles][4] = {};
  const float scale = __fmul_rn(a.scale, 1.4426950408889634F);  // log2(e)

  // Where the rows of a piece are in the cache: pieces take turns, as the next one is loaded while
  // this one is worked on.
  const auto find_rows = [&](int piece) {
    const int position = piece * kPiece + thread;
    int64_t offset = -1;
    if (tile_first <= position && position <= tile_last) {
      const int64_t block = table[position / a.cache.block_size];
      offset = ((block * a.cache.kv_heads + work.head) * a.cache.block_size +
                position % a.cache.block_size) *
               d;
    }
    offsets[piece % 2][thread] = offset;
  };
  const auto load = [&](int piece, const uint16_t* from, uint16_t* to) {
    if (piece < work.end_piece) {
      const int64_t* rows = offsets[piece % 2];
      if (d % 8 == 0) {
        constexpr int kVectors = 2 * kDepth;  // of 16 bytes, a row
#pragma unroll 4
        for (int i = thread; i < kPiece * kVectors; i += kThreads) {
          const int row = i / kVectors;
          const int column = i % kVectors * 8;
          const int64_t offset = rows[row];
          const bool valid = offset >= 0 && column < d;
          copy_async(to + row * L::kStride + column, from + (valid ? offset + column : 0), valid);
        }
      } else {
        for (int i = thread; i < kPiece * 16 * kDepth; i += kThreads) {
          const int row = i / (16 * kDepth);
          const int column = i % (16 * kDepth);
          const int64_t offset = rows[row];
          to[row * L::kStride + column] =
              offset >= 0 && column < d ? from[offset + column] : uint16_t{0};
        }
      }
    }
    commit_copies();
  };
  find_rows(work.first_piece);
  __syncthreads();
  load(work.first_piece, a.cache.keys, keys);
  load(work.first_piece, a.cache.values, values);

  for (int piece = work.first_piece; piece < work.end_piece; ++piece) {
    const int begin = piece * kPiece;
    if (piece + 1 < work.end_piece) find_rows(piece + 1);
    wait_for_copies<1>();
    __syncthreads();  // the keys are here, and so are the next piece's offsets

    // Scores of positions [32 warp, 32 warp + 32) for all queries.
    float scores[2][kQueryTiles][4] = {};
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      uint32_t left[2][4];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const int row = warp * 32 + tile * 16 + lane % 16;
        load_matrices(left[tile], keys + row * L::kStride + k * 16 + lane / 16 * 8);
      }
#pragma unroll
      for (int q = 0; q < kQueryTiles; ++q) {
        const uint16_t* from = queries + (q * 8 + group) * L::kStride + k * 16 + quad * 2;
        const uint32_t low = *reinterpret_cast<const uint32_t*>(from);
        const uint32_t high = *reinterpret_cast<const uint32_t*>(from + 8);
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          mma(scores[tile][q], left[tile][0], left[tile][1], left[tile][2], left[tile][3], low,
              high);
        }
      }
    }
    // Element i of a fragment is position group + i / 2 * 8 of the tile, query quad * 2 + i % 2.
#pragma unroll
    for (int q = 0; q < kQueryTiles; ++q) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int query = q * 8 + quad * 2 + odd;
        float max = kMinusInfinity;
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float& score = scores[tile][q][half * 2 + odd];
            const int position = begin + warp * 32 + tile * 16 + group + half * 8;
            score = first_position[query] <= position && position <= last_position[query]
                        ? __fmul_rn(score, scale)
                        : kMinusInfinity;
            max = fmaxf(max, score);
          }
        }
#pragma unroll
        for (int distance = 4; distance < 32; distance *= 2) {
          max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, distance));
        }
        if (group == 0) warp_maxima[warp][query] = max;
      }
    }
    __syncthreads();
    load(piece + 1, a.cache.keys, keys);  // nobody reads this piece's any more
    float piece_max[kQueryTiles][2];
#pragma unroll
    for (int q = 0; q < kQueryTiles; ++q) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int query = q * 8 + quad * 2 + odd;
        piece_max[q][odd] = fmaxf(fmaxf(warp_maxima[0][query], warp_maxima[1][query]),
                                  fmaxf(warp_maxima[2][query], warp_maxima[3][query]));
      }
    }
#pragma unroll
    for (int q = 0; q < kQueryTiles; ++q) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int query = q * 8 + quad * 2 + odd;
        const float max = piece_max[q][odd];
        float sum = 0;
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float score = scores[tile][q][half * 2 + odd];
            const float weight = score == kMinusInfinity ? 0.0F : power_of_two(score - max);
            sum += weight;
            weights[query * L::kWeightStride + warp * 32 + tile * 16 + group + half * 8] =
                to_bf16_bits(weight);
          }
        }
#pragma unroll
        for (int distance = 4; distance < 32; distance *= 2) {
          sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        }
        if (group == 0) warp_sums[warp][query] = sum;
        if (group == 0 && warp == 0) {
          factors[query] = merge_factors(run_max[query], max);
          run_max[query] = fmaxf(run_max[query], max);
        }
      }
    }
    wait_for_copies<1>();
    __syncthreads();  // the values and all weights are here
    for (int query = thread; query < L::kQueries; query += kThreads) {
      const float sum =
          (warp_sums[0][query] + warp_sums[1][query]) + (warp_sums[2][query] + warp_sums[3][query]);
      run_sum[query] = merged(run_sum[query], sum, factors[query]);
    }

    // Sums of the values' columns, 16 at a time, for all queries.
    float sums[kRowTiles][kQueryTiles][4] = {};
#pragma unroll
    for (int k = 0; k < kPiece / 16; ++k) {
      uint32_t left[kRowTiles][4];
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        const int tile = warp + r * kWarps;
        if (tile >= kDepth) break;
        // Transposed 8 x 8 matrices: columns 0-7 and 8-15 of positions 0-7, then of 8-15.
        const int row = k * 16 + lane / 16 * 8 + lane % 8;
        load_matrices_transposed(left[r], values + row * L::kStride + tile * 16 + lane / 8 % 2 * 8);
      }
#pragma unroll
      for (int q = 0; q < kQueryTiles; ++q) {
        const uint16_t* from = weights + (q * 8 + group) * L::kWeightStride + k * 16 + quad * 2;
        const uint32_t low = *reinterpret_cast<const uint32_t*>(from);
        const uint32_t high = *reinterpret_cast<const uint32_t*>(from + 8);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          if (warp + r * kWarps >= kDepth) break;
          mma(sums[r][q], left[r][0], left[r][1], left[r][2], left[r][3], low, high);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int q = 0; q < kQueryTiles; ++q) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          run[r][q][i] = merged(run[r][q][i], sums[r][q][i], factors[q * 8 + quad * 2 + i % 2]);
        }
      }
    }
    __syncthreads();
    load(piece + 1, a.cache.values, values);  // nobody reads this piece's any more
  }
  __syncthreads();

#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    const int tile = warp + r * kWarps;
    if (tile >= kDepth) break;
#pragma unroll
    for (int q = 0; q < kQueryTiles; ++q) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int query = q * 8 + quad * 2 + i % 2;
        const int column = tile * 16 + group + i / 2 * 8;
        if (query >= work.queries || column >= d) continue;
        const int64_t at = static_cast<int64_t>(row_of(query)) * a.heads + head_of(query);
        if (work.apart) {
          const int64_t piece = partial_index(a, blockIdx.x, head_of(query), work.first_piece);
          a.partials[piece * d + column] = run[r][q][i];
          if (column == 0) {
            partial_stats(a)[piece] = make_float2(run_max[query], run_sum[query]);
          }
        } else {
          a.out[at * d + column] = to_bf16_bits(__fdiv_rn(run[r][q][i], run_sum[query]));
        }
      }
    }
  }
}

/// Blocks: tiles from `first_tile` on, KV heads times groups of queries, and, if `apart`, pieces.
template <int kDepth, int kQueryTiles>
__global__ void __launch_bounds__(kThreads)
    attention_kernel(const __grid_constant__ AttentionArgs a, int first_tile, int query_groups,
                     bool apart) {
  extern __shared__ __align__(16) uint16_t shared[];
  // Of a prompt the last tiles have the most pieces: they begin first.
  const int tile = first_tile + static_cast<int>(apart ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
  const int per_head = a.heads / a.cache.kv_heads;
  const int most = 8 * kQueryTiles;
  const int first_query = static_cast<int>(blockIdx.y) % query_groups * most;
  const int queries = min(most, a.tiles[2 * tile + 1] * per_head - first_query);
  if (queries <= 0) {
    wait_for_inputs();
    return;
  }
  const int first_row = a.tiles[2 * tile] + first_query / per_head;
  const int last_row = a.tiles[2 * tile] + (first_query + queries - 1) / per_head;
  const int begin = a.window > 0 ? max(0, a.positions[first_row] - a.window + 1) / kPiece : 0;
  const int end = a.positions[last_row] / kPiece + 1;
  Work work{.first_row = first_row,
            .first_query = first_query % per_head,
            .queries = queries,
            .last_position = a.positions[last_row],
            .head = static_cast<int>(blockIdx.y) / query_groups,
            .per_head = per_head,
            .first_piece = begin,
            .end_piece = end,
            .apart = apart};
  if (apart) {
    const int piece = static_cast<int>(blockIdx.z);
    if (piece < begin || piece >= end) {
      wait_for_inputs();  // whoever waits for this kernel waits for those before it, too
      return;
    }
    work.first_piece = piece;
    work.end_piece = piece + 1;
    work.apart = end - begin > 1;  // of one piece there is nothing to merge
  }
  attend<kDepth, kQueryTiles>(a, work, shared);
  if (!apart || end - begin == 1) return;

  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* arrivals = a.arrivals + blockIdx.x * gridDim.y + blockIdx.y;
    last = atomicAdd(arrivals, 1) + 1 == static_cast<uint32_t>(end - begin);
    if (last) *arrivals = 0;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int query = warp; query < queries; query += kWarps) {
    const int head = work.head * per_head + first_query + query;  // of one row
    merge_pieces(a, blockIdx.x, head, begin, end,
                 a.out + (static_cast<int64_t>(first_row) * a.heads + head) * a.cache.head_dim,
                 static_cast<int>(threadIdx.x) % 32);
  }
}

template <int kDepth, int kQueryTiles>
cudaError_t launch(cudaStream_t stream, const AttentionArgs& a, int first_tile, int tiles,
                   int most_rows, bool apart) {
  using L = Layout<kDepth, kQueryTiles>;
  auto* kernel = attention_kernel<kDepth, kQueryTiles>;
  // Once per device and instance would do; it costs a microsecond.
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes);
  if (status != cudaSuccess) return status;
  const int per_head = a.heads / a.cache.kv_heads;
  const int groups = (most_rows * per_head + L::kQueries - 1) / L::kQueries;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(a.cache.kv_heads * groups),
                  apart ? static_cast<unsigned>(a.pieces) : 1U);
  return launch_early(kernel, grid, kThreads, L::kBytes, stream, a, first_tile, groups, apart);
}

template <int kDepth>
cudaError_t attention_of(cudaStream_t stream, const AttentionArgs& a, bool single) {
  constexpr int kWide = kDepth <= 8 ? 8 : 4;  // registers
  if (single) {
    const bool apart = a.partials != nullptr && a.pieces > 1;
    const bool few = a.heads / a.cache.kv_heads <= 8;
    return few ? launch<kDepth, 1>(stream, a, 0, a.single_tiles, 1, apart)
               : launch<kDepth, kWide>(stream, a, 0, a.single_tiles, 1, apart);
  }
  return launch<kDepth, kWide>(stream, a, a.single_tiles, a.all_tiles - a.single_tiles,
                               kAttentionTileRows,
                               /*apart=*/false);
}

cudaError_t attention(cudaStream_t stream, const AttentionArgs& args, bool single) {
  const int depth = (args.cache.head_dim + 15) / 16;
  if (depth <= 1) return attention_of<1>(stream, args, single);
  if (depth <= 2) return attention_of<2>(stream, args, single);
  if (depth <= 4) return attention_of<4>(stream, args, single);
  if (depth <= 6) return attention_of<6>(stream, args, single);
  if (depth <= 8) return attention_of<8>(stream, args, single);
  if (depth <= 12) return attention_of<12>(stream, args, single);
  return attention_of<16>(stream, args, single);
}

int64_t query_groups_of_single(const AttentionArgs& a) {
  const int per_head = a.heads / a.cache.kv_heads;
  const int wide = a.cache.head_dim <= 128 ? 64 : 32;
  return per_head <= 8 ? 1 : (per_head + wide - 1) / wide;
}

}  // namespace

int64_t partial_floats(const AttentionArgs& args) {
  return static_cast<int64_t>(args.single_tiles) * args.heads * args.pieces *
         (args.cache.head_dim + 2);
}

bool may_split(const AttentionArgs& args) {
  return static_cast<int64_t>(args.single_tiles) * args.cache.kv_heads *
             query_groups_of_single(args) <=
         kMaxArrivals;
}

cudaError_t attention_of_rows(cudaStream_t stream, const AttentionArgs& args) {
  return args.single_tiles == 0 ? cudaSuccess : attention(stream, args, /*single=*/true);
}

cudaError_t attention_of_tiles(cudaStream_t stream, const AttentionArgs& args) {
  return args.all_tiles == args.single_tiles ? cudaSuccess
                                             : attention(stream, args, /*single=*/false);
}

}  // namespace fourfold::backend::cuda
