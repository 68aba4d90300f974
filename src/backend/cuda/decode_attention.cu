// Attention of single rows (a decode step) in fast numerics: all that matters is that the cache
// streams from memory without a gap. The positions of all rows and KV heads are cut into units of
// 64, and the units into as many equal runs as there are multiprocessors, whatever the lengths of
// the sequences are. A block takes a run: one warp brings unit after unit by bulk copies through a
// ring in shared memory, also over the borders of heads and sequences; the others take units in
// turns, each with a softmax of its own, and join what they have where a head's units end. Where a
// head's units lie in several runs, the block that is done last joins the parts (Stream-K, Osama et
// al., 2023).

#include "backend/cuda/hopper.cuh"
#include "backend/cuda/kernels.h"

namespace fourfold::backend::cuda {
namespace {

constexpr int kUnit = 64;                // positions
constexpr int kQueries = 8;              // most query heads of a KV head
constexpr int kBytesOfWarp = 32 * 1024;  // of the ring
/// Units of a run, at least: joining costs more than it saves where runs are shorter.
constexpr int kLeastUnits = 2;
constexpr int kComputeBarrier = 1;
constexpr float kMinusInfinity = -INFINITY;

/// `kWarps` compute. Six keep the memory busy. Where every run is short, two do, and leave room for
/// the kernels around this one to bring their weights at the same time.
template <int kDim, int kWarps>
struct Layout {
  static constexpr int kComputeThreads = 32 * kWarps;
  static constexpr int kThreads = kComputeThreads + 32;
  static constexpr int kRingBytes = kWarps * kBytesOfWarp;
  static constexpr int kHalves = kDim / kSwizzledColumns;
  static constexpr int kKeyBytes = kHalves * kUnit * kSwizzledBytes;  ///< of a unit
  static constexpr int kUnitBytes = 2 * kKeyBytes;
  static constexpr int kStages = kRingBytes / kUnitBytes;
  /// A stage belongs to one warp. Else a warp could come to wait for a stage's next unit before
  /// another one's has arrived there, and take the parity of the unit before that for its own.
  static_assert(kStages % kWarps == 0);
  static constexpr int kBytes = kRingBytes + kSwizzleAtomBytes;
};

/// What the warps of a block have of a head.
template <int kDim, int kWarps>
struct Joining {
  /// Four more columns against bank conflicts; read four at a time.
  alignas(16) float sums[kWarps][kQueries][kDim + 4];
  float max[kWarps][kQueries];
  float weight[kWarps][kQueries];
};

/// Neighbouring units of one row and KV head.
struct Segment {
  int row;    ///< of the step
  int tile;   ///< which of the single rows
  int last;   ///< its position
  int head;   ///< KV head
  int begin;  ///< its units
  int end;
  int first_unit;  ///< of the row's positions: of its window
  int all;         ///< units of the head
};

/// The units of all rows: `before[t]` units of a KV head lie in the rows before t.
struct Units {
  const int32_t* before;
  int tiles;
  int kv_heads;

  __device__ int all() const { return before[tiles] * kv_heads; }
  __device__ static int begin_of(int64_t all, int64_t runs, int64_t run) {
    return static_cast<int>(run * all / runs);
  }
  /// The run that unit `unit` lies in.
  __device__ static int run_of(int64_t all, int64_t runs, int64_t unit) {
    return static_cast<int>(((unit + 1) * runs - 1) / all);
  }
};

__device__ inline int first_position_of(const AttentionArgs& a, int last) {
  return a.window > 0 ? max(0, last - a.window + 1) : 0;
}

/// Calls visit(segment) for the segments of units [begin, end).
template <typename Visit>
__device__ void visit_segments(const AttentionArgs& a, const Units& units, int begin, int end,
                               const Visit& visit) {
  int low = 0;  // the last tile that begins at or before `begin`
  for (int high = units.tiles; high - low > 1;) {
    const int middle = (low + high) / 2;
    (units.before[middle] * units.kv_heads <= begin ? low : high) = middle;
  }
  int tile = low;
  while (begin < end) {
    const int count = units.before[tile + 1] - units.before[tile];
    const int local = begin - units.before[tile] * units.kv_heads;
    Segment segment;
    segment.tile = tile;
    segment.row = __ldcg(a.tiles + 2 * tile);
    segment.last = __ldcg(a.positions + segment.row);
    segment.head = local / count;
    segment.begin = local % count;
    segment.end = min(count, segment.begin + end - begin);
    segment.first_unit = first_position_of(a, segment.last) / kUnit;
    segment.all = count;
    visit(segment);
    begin += segment.end - segment.begin;
    if (segment.head == units.kv_heads - 1 && segment.end == count) ++tile;
  }
}

template <int kDim, int kWarps>
__device__ void bring(const AttentionArgs& a, const CUtensorMap& keys, const CUtensorMap& values,
                      const Units& units, int begin, int end, uint8_t* ring, uint64_t* here,
                      uint64_t* done) {
  using L = Layout<kDim, kWarps>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int box = min(a.cache.block_size, kUnit);
  const int boxes_of_unit = kUnit / box;         // along its positions; at most 8
  const int boxes = boxes_of_unit * L::kHalves;  // of its keys
  const bool of_values = lane >= boxes;
  const int index = of_values ? lane - boxes : lane;
  const int box_of_unit = index % boxes_of_unit;
  const int half = index / boxes_of_unit;
  const int to =
      (of_values ? L::kKeyBytes : 0) + (half * kUnit + box_of_unit * box) * kSwizzledBytes;
  const int outside = a.cache.blocks * a.cache.kv_heads * a.cache.block_size;  // reads as zeros
  const CUtensorMap& map = of_values ? values : keys;
  bool waited = false;
  int count = 0;
  visit_segments(a, units, begin, end, [&](const Segment& s) {
    const int32_t* table = a.cache.block_tables +
                           static_cast<int64_t>(__ldcg(a.sequences + s.row)) * a.cache.table_width;
    // Positions before those of this step were written steps ago. The row may be the rest of a
    // longer run, whose other rows came just before it.
    const bool alone = s.row == 0 || a.sequences[s.row - 1] != a.sequences[s.row];
    // Lane l holds where box l of the next 32 lies; those of the 32 after them are on their way, as
    // a unit must not wait for the table.
    const int first = (s.first_unit + s.begin) * boxes_of_unit;
    const auto look_up = [&](int from) {
      const int position = (from + lane) * box;
      if (position > s.last) return outside;
      const int block = __ldcg(table + position / a.cache.block_size);
      return (block * a.cache.kv_heads + s.head) * a.cache.block_size +
             position % a.cache.block_size;
    };
    int rows = look_up(first);
    int next_rows = look_up(first + 32);
    for (int u = s.begin; u < s.end; ++u, ++count) {
      const int of_unit = (u - s.begin) * boxes_of_unit % 32;
      if (of_unit == 0 && u > s.begin) {
        rows = next_rows;
        next_rows = look_up(first + (u - s.begin) * boxes_of_unit + 32);
      }
      if ((!alone || u + 1 == s.all) && !waited) {
        wait_for_inputs();
        waited = true;
      }
      const int stage = count % L::kStages;
      wait_for(&done[stage], (count / L::kStages % 2) ^ 1);
      if (lane == 0) arrive_expecting(&here[stage], L::kUnitBytes);
      const int row = __shfl_sync(0xffffffffU, rows, of_unit + box_of_unit);
      if (index < boxes) {
        copy_box(ring + stage * L::kUnitBytes + to, map, half * kSwizzledColumns, row,
                 &here[stage]);
      }
    }
  });
  if (!waited) wait_for_inputs();  // whoever waits for this kernel waits for those before it, too
}

/// A warp's part of a head, of queries `lane % 4 * 2` and the next: sums[t][i] is column
/// 16 t + lane / 4 + i / 2 * 8 of query i % 2.
template <int kDim>
struct Part {
  float sums[kDim / 16][4] = {};
  float max[2] = {kMinusInfinity, kMinusInfinity};
  float weight[2] = {};  ///< this thread's share
};

/// Transposes 8 x 8 bf16 that a warp has, two neighbours of a row a thread.
__device__ inline uint32_t transposed(uint32_t pair) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
}

/// Adds the positions of a unit in shared memory. `queries`: their fragments. Scores are mma of
/// keys by queries, sums mma of values by weights.
template <int kDim>
__device__ void add_unit(const AttentionArgs& a, const uint8_t* keys, uint8_t* values,
                         const uint32_t (&queries)[kDim / 16][2], int begin, int first, int last,
                         Part<kDim>& part) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto at = [](int row, int vector) {
    return (vector / 8 * kUnit + row) * kSwizzledBytes + ((vector % 8) ^ (row % 8)) * 16;
  };
  // Blocks of the cache hold what others left behind the last position, maybe not even numbers:
  // times a weight of 0 that would not be 0.
  const int seen = last + 1 - begin;
  if (seen < kUnit) {
    for (int i = lane; i < (kUnit - seen) * (kDim / 8); i += 32) {
      *reinterpret_cast<uint4*>(values + at(seen + i / (kDim / 8), i % (kDim / 8))) =
          make_uint4(0, 0, 0, 0);
    }
    fence_shared();
    __syncwarp();
  }

  constexpr int kTiles = kUnit / 16;
  float scores[kTiles][4] = {};
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      uint32_t left[4];
      load_matrices(left, keys + at(tile * 16 + lane % 16, k * 2 + lane / 16));
      mma(scores[tile], left[0], left[1], left[2], left[3], queries[k][0], queries[k][1]);
    }
  }
  // Element i is position 16 tile + lane / 4 + i / 2 * 8 of query i % 2.
  const float scale = __fmul_rn(a.scale, 1.4426950408889634F);  // log2(e)
  const bool all_seen = first <= begin && seen >= kUnit;
  uint32_t weights[kTiles][2];
  float factors[2];
#pragma unroll
  for (int query = 0; query < 2; ++query) {
    float max = part.max[query];
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) {
      float& score = scores[i / 2][i % 2 * 2 + query];
      const int position = begin + i / 2 * 16 + lane / 4 + i % 2 * 8;
      score = all_seen || (first <= position && position <= last) ? __fmul_rn(score, scale)
                                                                  : kMinusInfinity;
      max = fmaxf(max, score);
    }
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) {
      max = fmaxf(max, __shfl_xor_sync(0xffffffffU, max, distance));
    }
    const float offset = max == kMinusInfinity ? 0.0F : max;
    factors[query] = power_of_two(part.max[query] - offset);
    part.max[query] = max;
    float weight = __fmul_rn(part.weight[query], factors[query]);
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) {
      float& score = scores[i / 2][i % 2 * 2 + query];
      score = power_of_two(score - offset);
      weight += score;
    }
    part.weight[query] = weight;
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    weights[tile][0] = transposed(bf16_pair(scores[tile][0], scores[tile][1]));
    weights[tile][1] = transposed(bf16_pair(scores[tile][2], scores[tile][3]));
  }
#pragma unroll
  for (int t = 0; t < kDim / 16; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) part.sums[t][i] = __fmul_rn(part.sums[t][i], factors[i % 2]);
#pragma unroll
    for (int k = 0; k < kTiles; ++k) {
      uint32_t left[4];
      const int row = k * 16 + lane / 16 * 8 + lane % 8;
      load_matrices_transposed(left, values + at(row, t * 2 + lane / 8 % 2));
      mma(part.sums[t], left[0], left[1], left[2], left[3], weights[k][0], weights[k][1]);
    }
  }
}

/// Joins parts of four columns of a query.
struct Joiner {
  float4 sum{};
  float max = kMinusInfinity;
  float weight = 0;

  /// stats: maximum and weight of each part.
  template <int kCount>
  __device__ void add(const float2 (&stats)[kCount], const float4 (&sums)[kCount]) {
    float new_max = max;
#pragma unroll
    for (int i = 0; i < kCount; ++i) new_max = fmaxf(new_max, stats[i].x);
    const float offset = new_max == kMinusInfinity ? 0.0F : new_max;
    const float kept = power_of_two(max - offset);
    max = new_max;
    weight = __fmul_rn(weight, kept);
    sum = make_float4(__fmul_rn(sum.x, kept), __fmul_rn(sum.y, kept), __fmul_rn(sum.z, kept),
                      __fmul_rn(sum.w, kept));
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float factor = power_of_two(stats[i].x - offset);
      weight = __fmaf_rn(stats[i].y, factor, weight);
      sum.x = __fmaf_rn(sums[i].x, factor, sum.x);
      sum.y = __fmaf_rn(sums[i].y, factor, sum.y);
      sum.z = __fmaf_rn(sums[i].z, factor, sum.z);
      sum.w = __fmaf_rn(sums[i].w, factor, sum.w);
    }
  }
  __device__ void write(uint16_t* out) const {
    *reinterpret_cast<uint2*>(out) =
        make_uint2(bf16_pair(__fdiv_rn(sum.x, weight), __fdiv_rn(sum.y, weight)),
                   bf16_pair(__fdiv_rn(sum.z, weight), __fdiv_rn(sum.w, weight)));
  }
};

/// One more arrival; returns those before it. What the block wrote before the last barrier is seen
/// by whoever arrives later, after the next one.
__device__ inline uint32_t arrive_in_memory(uint32_t* arrivals) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(arrivals)
               : "memory");
  return before;
}

/// Parts of heads in memory, two for each run: of its first head, if that began before, and of its
/// last one.
template <int kDim>
struct Partials {
  float* sums;
  float2* stats;

  __device__ explicit Partials(const AttentionArgs& a, int runs)
      : sums(a.partials),
        stats(reinterpret_cast<float2*>(a.partials + int64_t{2} * runs * kQueries * kDim)) {}
  __device__ static int slot(int run, bool began_before) {
    return 2 * run + (began_before ? 0 : 1);
  }
};

/// Joins the runs' parts of a head.
template <int kDim, int kComputeThreads>
__device__ void join_runs(const AttentionArgs& a, const Segment& s, const Partials<kDim>& partials,
                          int first_run, int last_run) {
  constexpr int kAtOnce = 8;  // so many parts are on their way together
  const int per_head = a.heads / a.cache.kv_heads;
  for (int i = static_cast<int>(threadIdx.x); i < per_head * kDim / 4; i += kComputeThreads) {
    const int query = i / (kDim / 4);
    const int column = i % (kDim / 4) * 4;
    Joiner joiner;
    for (int base = first_run; base <= last_run; base += kAtOnce) {
      float2 stats[kAtOnce];
      float4 sums[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int run = base + j;
        const int slot = Partials<kDim>::slot(run, run > first_run) * kQueries + query;
        const bool there = run <= last_run;
        stats[j] = there ? __ldcg(partials.stats + slot) : make_float2(kMinusInfinity, 0);
        sums[j] = there ? __ldcg(reinterpret_cast<const float4*>(partials.sums +
                                                                 int64_t{slot} * kDim + column))
                        : float4{};
      }
      joiner.add(stats, sums);
    }
    joiner.write(a.out +
                 (static_cast<int64_t>(s.row) * a.heads + s.head * per_head + query) * kDim +
                 column);
  }
}

template <int kDim, int kWarps>
__device__ void attend(const AttentionArgs& a, const Units& units, int begin, int end, int run,
                       int runs, uint8_t* ring, uint64_t* here, uint64_t* done,
                       Joining<kDim, kWarps>& joining, bool& last_here) {
  using L = Layout<kDim, kWarps>;
  constexpr int kComputeThreads = L::kComputeThreads;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = lane / 4;
  const int quad = lane % 4;
  const int per_head = a.heads / a.cache.kv_heads;
  const Partials<kDim> partials(a, runs);
  const int all = units.all();
  int count = 0;  // of this block's units, those before the segment
  visit_segments(a, units, begin, end, [&](const Segment& s) {
    uint32_t queries[kDim / 16][2] = {};
    if (group < per_head) {
      const float* from =
          a.queries + (static_cast<int64_t>(s.row) * a.heads + s.head * per_head + group) * kDim +
          quad * 2;
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float2 q = *reinterpret_cast<const float2*>(from + k * 16 + half * 8);
          queries[k][half] = bf16_pair(q.x, q.y);
        }
      }
    }
    const int first = first_position_of(a, s.last);
    Part<kDim> part;
    const int segment_units = s.end - s.begin;
    // Units are taken in turns, over the borders of segments.
    for (int i = (warp + kWarps - count % kWarps) % kWarps; i < segment_units; i += kWarps) {
      const int stage = (count + i) % L::kStages;
      wait_for(&here[stage], (count + i) / L::kStages % 2);
      uint8_t* keys = ring + stage * L::kUnitBytes;
      add_unit<kDim>(a, keys, keys + L::kKeyBytes, queries, (s.first_unit + s.begin + i) * kUnit,
                     first, s.last, part);
      __syncwarp();
      if (lane == 0) arrive(&done[stage]);
    }
    count += segment_units;

#pragma unroll
    for (int query = 0; query < 2; ++query) {
      float weight = part.weight[query];
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2) {
        weight += __shfl_xor_sync(0xffffffffU, weight, distance);
      }
      if (group == 0) {
        joining.max[warp][quad * 2 + query] = part.max[query];
        joining.weight[warp][quad * 2 + query] = weight;
      }
    }
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) {
      joining.sums[warp][quad * 2 + i % 2][i / 4 * 16 + group + i % 4 / 2 * 8] =
          part.sums[i / 4][i % 4];
    }
    sync_threads(kComputeBarrier, kComputeThreads);
    const bool whole = segment_units == s.all;
    const int slot = Partials<kDim>::slot(run, s.begin > 0) * kQueries;
    for (int i = static_cast<int>(threadIdx.x); i < per_head * kDim / 4; i += kComputeThreads) {
      const int query = i / (kDim / 4);
      const int column = i % (kDim / 4) * 4;
      float2 stats[kWarps];
      float4 sums[kWarps];
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        stats[w] = make_float2(joining.max[w][query], joining.weight[w][query]);
        sums[w] = *reinterpret_cast<const float4*>(&joining.sums[w][query][column]);
      }
      Joiner joiner;
      joiner.add(stats, sums);
      if (whole) {
        joiner.write(a.out +
                     (static_cast<int64_t>(s.row) * a.heads + s.head * per_head + query) * kDim +
                     column);
      } else {
        *reinterpret_cast<float4*>(partials.sums + int64_t{slot + query} * kDim + column) =
            joiner.sum;
        if (column == 0) partials.stats[slot + query] = make_float2(joiner.max, joiner.weight);
      }
    }
    if (!whole) {
      const int first_of_head = units.before[s.tile] * units.kv_heads + s.head * s.all;
      const int first_run = Units::run_of(all, runs, first_of_head);
      const int last_run = Units::run_of(all, runs, first_of_head + s.all - 1);
      sync_threads(kComputeBarrier, kComputeThreads);
      if (threadIdx.x == 0) {
        uint32_t* arrivals = a.arrivals + s.tile * units.kv_heads + s.head;
        last_here = arrive_in_memory(arrivals) == static_cast<uint32_t>(last_run - first_run);
        if (last_here) *arrivals = 0;
      }
      sync_threads(kComputeBarrier, kComputeThreads);
      if (last_here) join_runs<kDim, kComputeThreads>(a, s, partials, first_run, last_run);
    }
    sync_threads(kComputeBarrier, kComputeThreads);  // `joining` may be written again
  });
}

template <int kDim, int kWarps>
__global__ void __launch_bounds__(32 * kWarps + 32, 1)
    decode_kernel(const __grid_constant__ AttentionArgs a, const __grid_constant__ CUtensorMap keys,
                  const __grid_constant__ CUtensorMap values) {
  using L = Layout<kDim, kWarps>;
  constexpr int kThreads = L::kThreads;
  extern __shared__ __align__(16) uint8_t unaligned[];
  uint8_t* ring = unaligned + (kSwizzleAtomBytes - shared_address(unaligned) % kSwizzleAtomBytes) %
                                  kSwizzleAtomBytes;
  __shared__ uint64_t here[L::kStages];
  __shared__ uint64_t done[L::kStages];
  __shared__ int32_t before[kMostDecodeRows + 1];
  __shared__ int32_t of_warps[kThreads / 32];
  __shared__ Joining<kDim, kWarps> joining;
  __shared__ bool last_here;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int stage = 0; stage < L::kStages; ++stage) {
      init_barrier(&here[stage], 1);
      init_barrier(&done[stage], 1);
    }
    publish_barriers();
    prefetch_map(keys);
    prefetch_map(values);
  }
  // What the host packed came before the kernels in front of this one: no need to wait for them.
  int total = 0;
  for (int base = 0; base < a.single_tiles; base += kThreads) {
    const int tile = base + thread;
    int count = 0;
    if (tile < a.single_tiles) {
      const int last = __ldcg(a.positions + __ldcg(a.tiles + 2 * tile));
      count = last / kUnit - first_position_of(a, last) / kUnit + 1;
    }
    int sum = count;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int left = __shfl_up_sync(0xffffffffU, sum, distance);
      if (thread % 32 >= distance) sum += left;
    }
    if (thread % 32 == 31) of_warps[thread / 32] = sum;
    __syncthreads();
    int earlier = total;
    for (int warp = 0; warp < kThreads / 32; ++warp) {
      if (warp < thread / 32) earlier += of_warps[warp];
      total += of_warps[warp];
    }
    if (tile < a.single_tiles) before[tile] = earlier + sum - count;
    __syncthreads();
  }
  if (thread == 0) before[a.single_tiles] = total;
  __syncthreads();

  const Units units{.before = before, .tiles = a.single_tiles, .kv_heads = a.cache.kv_heads};
  const int all = units.all();
  const int runs = min(static_cast<int>(gridDim.x), max(1, all / kLeastUnits));
  const int run = static_cast<int>(blockIdx.x);
  if (run >= runs) {
    wait_for_inputs();
    let_next_start();
    return;
  }
  const int begin = Units::begin_of(all, runs, run);
  const int end = Units::begin_of(all, runs, run + 1);
  if (thread >= L::kComputeThreads) {
    bring<kDim, kWarps>(a, keys, values, units, begin, end, ring, here, done);
  } else {
    wait_for_inputs();
    let_next_start();
    attend<kDim, kWarps>(a, units, begin, end, run, runs, ring, here, done, joining, last_here);
  }
}

template <int kDim, int kWarps>
cudaError_t launch(cudaStream_t stream, const AttentionArgs& a, const CUtensorMap& keys,
                   const CUtensorMap& values) {
  using L = Layout<kDim, kWarps>;
  auto* kernel = decode_kernel<kDim, kWarps>;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes);
  if (status != cudaSuccess) return status;
  return launch_early(kernel, dim3(static_cast<unsigned>(multiprocessors())), L::kThreads,
                      L::kBytes, stream, a, keys, values);
}

template <int kDim>
cudaError_t launch_for(cudaStream_t stream, const AttentionArgs& a, const CUtensorMap& keys,
                       const CUtensorMap& values) {
  // What the table has room for; the lengths are in the GPU's memory.
  const int64_t most_units =
      int64_t{a.single_tiles} * a.cache.kv_heads * a.cache.table_width * a.cache.block_size / kUnit;
  constexpr int kShortRun = 16;
  return most_units <= int64_t{kShortRun} * multiprocessors()
             ? launch<kDim, 2>(stream, a, keys, values)
             : launch<kDim, 6>(stream, a, keys, values);
}

}  // namespace

bool takes_decodes(const AttentionArgs& args) {
  const CacheArgs& cache = args.cache;
  const int block = cache.block_size;
  return (cache.head_dim == 64 || cache.head_dim == 128) && block % 8 == 0 &&
         (kUnit % block == 0 || block % kUnit == 0) && args.heads / cache.kv_heads <= kQueries &&
         args.single_tiles <= kMostDecodeRows &&
         int64_t{args.single_tiles} * cache.kv_heads <= kMaxArrivals &&
         int64_t{cache.blocks} * cache.kv_heads * block < INT32_MAX;
}

int decode_box_rows(int block_size) { return block_size < kUnit ? block_size : kUnit; }

int64_t decode_partial_floats(int head_dim) {
  return int64_t{2} * multiprocessors() * kQueries * (head_dim + 2);
}

cudaError_t decode_attention(cudaStream_t stream, const AttentionArgs& args,
                             const CUtensorMap& keys, const CUtensorMap& values) {
  return args.cache.head_dim == 64 ? launch_for<64>(stream, args, keys, values)
                                   : launch_for<128>(stream, args, keys, values);
}

}  // namespace fourfold::backend::cuda
