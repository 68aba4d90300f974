// Attention of prompts in fast numerics, on Hopper's matrix instructions. A block takes 128 queries
// (rows of one sequence times the query heads of one KV head) and goes over the positions that they
// see, 128 at a time, from the last to the first. One warp brings keys and values by bulk copies,
// one box for each KV block. Two warpgroups compute 64 queries each: while the tensor cores
// multiply the next keys and these values, the weights of the next keys' scores are computed, and
// the warpgroups take turns, so that one multiplies while the other computes weights. The scheme is
// that of FlashAttention-3 (Shah et al., 2024).

#include "backend/cuda/hopper.cuh"
#include "backend/cuda/kernels.h"

namespace fourfold::backend::cuda {
namespace {

constexpr int kGroups = 2;  // warpgroups that compute
constexpr int kGroupQueries = 64;
constexpr int kQueries = kGroups * kGroupQueries;
constexpr int kPositions = 128;  // of a tile of keys or values
constexpr int kStages = 2;
constexpr int kThreads = (1 + kGroups) * kWarpgroup;
constexpr int kComputeWarps = kGroups * kWarpgroup / 32;
constexpr float kMinusInfinity = -INFINITY;

// Barriers of threads: 1 + group is a warpgroup's turn.
constexpr int kAllGroups = 1 + kGroups;
constexpr int kOneGroup = kAllGroups + 1;  // and the next

template <int kDim>
struct Layout {
  static constexpr int kHalves = kDim / kSwizzledColumns;  ///< of a row, each in rows of its own
  static constexpr int kGroupBytes = kHalves * kGroupQueries * kSwizzledBytes;
  static constexpr int kTileBytes = kHalves * kPositions * kSwizzledBytes;
  static constexpr int kQueryOffset = 0;
  static constexpr int kKeys = kGroups * kGroupBytes;
  static constexpr int kValues = kKeys + kStages * kTileBytes;
  static constexpr int kBytes = kValues + kStages * kTileBytes + kSwizzleAtomBytes;
};

struct Barriers {
  uint64_t keys_here[kStages];
  uint64_t values_here[kStages];
  uint64_t keys_done[kStages];
  uint64_t values_done[kStages];
};

/// What a block works on: its queries are those from `first_query` on of the rows from `first_row`
/// on, head after head.
struct Work {
  int head;  ///< KV head
  int per_head;
  int first_row;
  int first_query;
  int queries;
  int last_position;  ///< that any query sees
  int first_tile;     ///< of positions
  int end_tile;
};

template <int kDim>
__device__ void bring(const AttentionArgs& a, const CUtensorMap& keys, const CUtensorMap& values,
                      const Work& work, uint8_t* shared, Barriers& barriers, int lane) {
  using L = Layout<kDim>;
  const int block_size = a.cache.block_size;
  const int blocks = kPositions / block_size;
  const int block = lane % blocks;
  const int half = lane / blocks;
  const int32_t* table = a.cache.block_tables +
                         static_cast<int64_t>(a.sequences[work.first_row]) * a.cache.table_width;
  const int to = half * kPositions * kSwizzledBytes + block * block_size * kSwizzledBytes;
  const int outside = a.cache.blocks * a.cache.kv_heads * block_size;  // reads as zeros
  for (int t = 0; t < work.end_tile - work.first_tile; ++t) {
    const int position = (work.end_tile - 1 - t) * kPositions + block * block_size;
    int row = outside;
    if (half < L::kHalves && position <= work.last_position) {
      row = (table[position / block_size] * a.cache.kv_heads + work.head) * block_size;
    }
    const int stage = t % kStages;
    const uint32_t parity = t / kStages % 2;
    const auto copy = [&](const CUtensorMap& map, int offset, uint64_t* here, uint64_t* done) {
      wait_for(done, parity ^ 1);
      if (lane == 0) arrive_expecting(here, L::kTileBytes);
      __syncwarp();
      if (half < L::kHalves) {
        copy_box(shared + offset + stage * L::kTileBytes + to, map, half * kSwizzledColumns, row,
                 here);
      }
    };
    copy(keys, L::kKeys, &barriers.keys_here[stage], &barriers.keys_done[stage]);
    copy(values, L::kValues, &barriers.values_here[stage], &barriers.values_done[stage]);
  }
}

/// A warpgroup's part.
template <int kDim>
__device__ void attend(const AttentionArgs& a, const Work& work, uint8_t* shared,
                       Barriers& barriers, int group) {
  using L = Layout<kDim>;
  constexpr int kScores = kPositions / 2;  // of a thread
  constexpr int kSums = kDim / 2;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int quad = lane % 4;
  // Row of the step and head of one of this warpgroup's queries.
  const auto row_of = [&](int query) {
    return work.first_row + (work.first_query + group * kGroupQueries + query) / work.per_head;
  };
  const auto head_of = [&](int query) {
    return work.head * work.per_head +
           (work.first_query + group * kGroupQueries + query) % work.per_head;
  };
  const auto here = [&](int query) { return group * kGroupQueries + query < work.queries; };

  uint8_t* queries = shared + L::kQueryOffset + group * L::kGroupBytes;
  constexpr int kVectors = kDim / 8;  // of 16 bytes, a query
  for (int i = thread; i < kGroupQueries * kVectors; i += kWarpgroup) {
    const int query = i / kVectors;
    const int column = i % kVectors * 8;
    uint4 bits = make_uint4(0, 0, 0, 0);
    if (here(query)) {
      const float* from = a.queries +
                          (static_cast<int64_t>(row_of(query)) * a.heads + head_of(query)) * kDim +
                          column;
      const float4 low = *reinterpret_cast<const float4*>(from);
      const float4 high = *reinterpret_cast<const float4*>(from + 4);
      bits = make_uint4(bf16_pair(low.x, low.y), bf16_pair(low.z, low.w), bf16_pair(high.x, high.y),
                        bf16_pair(high.z, high.w));
    }
    const int half = column / kSwizzledColumns;
    const int vector = column % kSwizzledColumns / 8;
    *reinterpret_cast<uint4*>(queries + half * kGroupQueries * kSwizzledBytes +
                              query * kSwizzledBytes + ((vector ^ (query % 8)) * 16)) = bits;
  }
  fence_shared();
  sync_threads(kOneGroup + group, kWarpgroup);

  // Of this thread's two queries.
  const int my_query[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8};
  int last[2];
  int first[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    last[r] = here(my_query[r]) ? a.positions[row_of(my_query[r])] : -1;
    first[r] = a.window > 0 ? max(0, last[r] - a.window + 1) : 0;
  }
  const int all_see_to = __reduce_min_sync(0xffffffffU, min(last[0], last[1]));
  const int all_see_from = __reduce_max_sync(0xffffffffU, max(first[0], first[1]));
  const float scale = __fmul_rn(a.scale, 1.4426950408889634F);  // log2(e)

  float sums[kSums] = {};
  float max_score[2] = {kMinusInfinity, kMinusInfinity};
  float weight_sum[2] = {};  // this thread's share
  float factor[2];           // of sums so far, after the last scores
  uint32_t weights[kScores / 2];

  const uint64_t query_rows = swizzled_rows(queries);
  const auto multiply_keys = [&](int t, float(&scores)[kScores]) {
    const uint64_t key_rows = swizzled_rows(shared + L::kKeys + t % kStages * L::kTileBytes);
    begin_products();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      const int half = k / 4;
      const uint32_t column = k % 4 * 32;
      product(scores, advanced(query_rows, half * kGroupQueries * kSwizzledBytes + column),
              advanced(key_rows, half * kPositions * kSwizzledBytes + column), k > 0);
    }
    commit_products();
  };
  const auto multiply_values = [&](int t) {
    const uint64_t value_rows = swizzled_rows(shared + L::kValues + t % kStages * L::kTileBytes,
                                              kPositions * kSwizzledBytes);
    begin_products();
#pragma unroll
    for (int k = 0; k < kPositions / 16; ++k) {
      product_across(sums, weights + 4 * k, advanced(value_rows, k * 16 * kSwizzledBytes), true);
    }
    commit_products();
  };
  // Turns scores into weights, not rounded yet.
  const auto soften = [&](int t, float(&scores)[kScores]) {
    const int begin = (work.end_tile - 1 - t) * kPositions;
    if (begin + kPositions - 1 > all_see_to || begin < all_see_from) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const int position = begin + i / 4 * 8 + quad * 2 + i % 2;
        const int r = i % 4 / 2;
        if (position < first[r] || position > last[r]) scores[i] = kMinusInfinity;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = max_score[r];
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        if (i % 4 / 2 == r) most = fmaxf(most, scores[i]);
      }
      most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffU, most, 2));
      // Where nothing was seen so far all scores are minus infinity, and all weights 0.
      const float offset = most == kMinusInfinity ? 0.0F : __fmul_rn(most, scale);
      factor[r] = power_of_two(__fmaf_rn(max_score[r], scale, -offset));
      max_score[r] = most;
      float sum = __fmul_rn(weight_sum[r], factor[r]);
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        if (i % 4 / 2 != r) continue;
        scores[i] = power_of_two(__fmaf_rn(scores[i], scale, -offset));
        sum += scores[i];
      }
      weight_sum[r] = sum;
    }
  };
  const auto round_weights = [&](const float(&scores)[kScores]) {
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) weights[i] = bf16_pair(scores[2 * i], scores[2 * i + 1]);
  };
  const auto release = [&](uint64_t* done) {
    if (lane == 0) arrive(done);
  };

  const int tiles = work.end_tile - work.first_tile;
  {
    float scores[kScores];
    wait_for(&barriers.keys_here[0], 0);
    multiply_keys(0, scores);
    wait_for_products<0>();
    settle(scores);
    release(&barriers.keys_done[0]);
    soften(0, scores);
    round_weights(scores);
  }
  // Blocks of the cache hold what others left behind the last position, maybe not even numbers:
  // times a weight of 0 that would not be 0.
  const int past = work.last_position - (work.end_tile - 1) * kPositions + 1;
  const int stale =
      (past + a.cache.block_size - 1) / a.cache.block_size * a.cache.block_size - past;
  if (stale > 0) {
    wait_for(&barriers.values_here[0], 0);
    for (int i = static_cast<int>(threadIdx.x) - kWarpgroup; i < stale * kVectors;
         i += kGroups * kWarpgroup) {
      const int row = past + i / kVectors;
      const int vector = i % kVectors;
      *reinterpret_cast<uint4*>(shared + L::kValues + vector / 8 * kPositions * kSwizzledBytes +
                                row * kSwizzledBytes + vector % 8 * 16) = make_uint4(0, 0, 0, 0);
    }
    fence_shared();
    sync_threads(kAllGroups, kGroups * kWarpgroup);
  }

  if (group == 1) arrive_threads(1, kGroups * kWarpgroup);
  for (int t = 1; t < tiles; ++t) {
    float scores[kScores];
    wait_for(&barriers.keys_here[t % kStages], t / kStages % 2);
    sync_threads(1 + group, kGroups * kWarpgroup);
    multiply_keys(t, scores);
    wait_for(&barriers.values_here[(t - 1) % kStages], (t - 1) / kStages % 2);
    multiply_values(t - 1);
    if (group == 0 || t + 1 < tiles) arrive_threads(2 - group, kGroups * kWarpgroup);
    wait_for_products<1>();
    settle(scores);
    release(&barriers.keys_done[t % kStages]);
    soften(t, scores);
    wait_for_products<0>();
    settle(sums);
    release(&barriers.values_done[(t - 1) % kStages]);
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] = __fmul_rn(sums[i], factor[i % 4 / 2]);
    round_weights(scores);
  }
  if (group == 0 && tiles == 1) sync_threads(1, kGroups * kWarpgroup);
  wait_for(&barriers.values_here[(tiles - 1) % kStages], (tiles - 1) / kStages % 2);
  multiply_values(tiles - 1);
  wait_for_products<0>();
  settle(sums);

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = weight_sum[r];
    sum += __shfl_xor_sync(0xffffffffU, sum, 1);
    sum += __shfl_xor_sync(0xffffffffU, sum, 2);
    if (!here(my_query[r])) continue;
    const float part = __fdiv_rn(1.0F, sum);
    uint16_t* out =
        a.out +
        (static_cast<int64_t>(row_of(my_query[r])) * a.heads + head_of(my_query[r])) * kDim +
        quad * 2;
#pragma unroll
    for (int i = 0; i < kSums / 4; ++i) {
      *reinterpret_cast<uint32_t*>(out + i * 8) =
          bf16_pair(__fmul_rn(sums[4 * i + 2 * r], part), __fmul_rn(sums[4 * i + 2 * r + 1], part));
    }
  }
}

/// Blocks: KV heads times tiles of rows times groups of queries.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    prompt_kernel(const __grid_constant__ AttentionArgs a, const __grid_constant__ CUtensorMap keys,
                  const __grid_constant__ CUtensorMap values, int query_groups) {
  extern __shared__ __align__(16) uint8_t unaligned[];
  uint8_t* shared =
      unaligned +
      (kSwizzleAtomBytes - shared_address(unaligned) % kSwizzleAtomBytes) % kSwizzleAtomBytes;
  __shared__ Barriers barriers;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      init_barrier(&barriers.keys_here[stage], 1);
      init_barrier(&barriers.values_here[stage], 1);
      init_barrier(&barriers.keys_done[stage], kComputeWarps);
      init_barrier(&barriers.values_done[stage], kComputeWarps);
    }
    publish_barriers();
    prefetch_map(keys);
    prefetch_map(values);
  }
  __syncthreads();
  wait_for_inputs();
  let_next_start();

  // Of a prompt the last queries see most: they begin first.
  const int blocks = (a.all_tiles - a.single_tiles) * query_groups;
  const int index = blocks - 1 - static_cast<int>(blockIdx.x) % blocks;
  const int tile = a.single_tiles + index / query_groups;
  const int per_head = a.heads / a.cache.kv_heads;
  const int first_query = index % query_groups * kQueries;
  const int queries = min(kQueries, a.tiles[2 * tile + 1] * per_head - first_query);
  if (queries <= 0) return;
  const int first_row = a.tiles[2 * tile] + first_query / per_head;
  const int last_row = a.tiles[2 * tile] + (first_query + queries - 1) / per_head;
  const int first_position = a.window > 0 ? max(0, a.positions[first_row] - a.window + 1) : 0;
  const Work work{.head = static_cast<int>(blockIdx.x) / blocks,
                  .per_head = per_head,
                  .first_row = first_row,
                  .first_query = first_query % per_head,
                  .queries = queries,
                  .last_position = a.positions[last_row],
                  .first_tile = first_position / kPositions,
                  .end_tile = a.positions[last_row] / kPositions + 1};
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  if (group < 0) {
    give_registers<24>();
    if (threadIdx.x < 32) {
      bring<kDim>(a, keys, values, work, shared, barriers, static_cast<int>(threadIdx.x));
    }
  } else {
    take_registers<240>();
    attend<kDim>(a, work, shared, barriers, group);
  }
}

template <int kDim>
cudaError_t launch(cudaStream_t stream, const AttentionArgs& a, const CUtensorMap& keys,
                   const CUtensorMap& values) {
  auto* kernel = prompt_kernel<kDim>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Layout<kDim>::kBytes);
  if (status != cudaSuccess) return status;
  const int per_head = a.heads / a.cache.kv_heads;
  const int groups = (kAttentionTileRows * per_head + kQueries - 1) / kQueries;
  const dim3 grid(
      static_cast<unsigned>(a.cache.kv_heads * (a.all_tiles - a.single_tiles) * groups));
  return launch_early(kernel, grid, kThreads, Layout<kDim>::kBytes, stream, a, keys, values,
                      groups);
}

}  // namespace

bool takes_prompts(const AttentionArgs& args) {
  const CacheArgs& cache = args.cache;
  return (cache.head_dim == 64 || cache.head_dim == 128) && cache.block_size % 8 == 0 &&
         kPositions % cache.block_size == 0 &&
         int64_t{cache.blocks} * cache.kv_heads * cache.block_size < INT32_MAX;
}

cudaError_t prompt_attention(cudaStream_t stream, const AttentionArgs& args,
                             const CUtensorMap& keys, const CUtensorMap& values) {
  return args.cache.head_dim == 64 ? launch<64>(stream, args, keys, values)
                                   : launch<128>(stream, args, keys, values);
}

}  // namespace fourfold::backend::cuda
