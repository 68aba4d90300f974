// Matmul of a decode step's rows in fast numerics, on Hopper's matrix instructions: all that
// matters is that weights stream from memory without a gap. Rows of w are the rows of the left
// operand, rows of x the columns of the right one. A tile is 128 rows of w and a unit 64 columns of
// a tile; the units of all tiles are cut into as many equal runs as there are multiprocessors, and
// a block takes a run: one warp brings unit after unit by bulk copies through a ring in shared
// memory, beginning before the kernel that makes x has ended, and two warpgroups multiply. Where a
// tile lies in several runs, the block that is done last adds their parts in order (Stream-K, Osama
// et al., 2023).

#include "backend/cuda/hopper.cuh"
#include "backend/cuda/kernels.h"

namespace fourfold::backend::cuda {
namespace {

constexpr int kGroups = 2;  // warpgroups that multiply
constexpr int kTileRows = 64 * kGroups;
constexpr int kThreads = (1 + kGroups) * kWarpgroup;
constexpr int kComputeThreads = kGroups * kWarpgroup;
constexpr int kTileBytes = kTileRows * kSwizzledBytes;  ///< of a unit's weights
constexpr int kRingBytes = 200 * 1024;
/// Units of a run, at least: adding parts costs more than it saves where runs are shorter.
constexpr int kLeastUnits = 4;
constexpr int kComputeBarrier = 1;
/// Of two matrices whose results are multiplied a tile has these rows of each in turns, so that a
/// thread gets both results.
constexpr int kAtomRows = 8;

/// `kRows`: of x, and so the width of the instruction.
template <int kRows>
struct Layout {
  static constexpr int kRowBytes = kRows * kSwizzledBytes;
  static constexpr int kStageBytes = kTileBytes + kRowBytes;
  static constexpr int kStages = kRingBytes / kStageBytes;
  static constexpr int kBytes = kStages * kStageBytes + kSwizzleAtomBytes;
  static constexpr int kSums = kRows / 2;  ///< of a thread
};

/// Which rows of which matrix a tile has.
struct Tile {
  int target;
  int first_row;
};

__device__ inline Tile tile_of(const BatchMatmulArgs& args, int index) {
  if (args.hidden != nullptr) return {0, index * (kTileRows / 2)};
  int target = 0;
  while (index >= args.first_tiles[target + 1]) ++target;
  return {target, (index - args.first_tiles[target]) * kTileRows};
}

template <int kRows>
__device__ void bring(const BatchMatmulArgs& args, const BatchMaps& maps, int begin, int end,
                      uint8_t* ring, uint64_t* here, uint64_t* done) {
  using L = Layout<kRows>;
  const int lane = static_cast<int>(threadIdx.x);
  const auto bring_weights = [&](int unit, int stage) {
    const Tile tile = tile_of(args, unit / args.units);
    const int column = unit % args.units * kSwizzledColumns;
    uint8_t* to = ring + stage * L::kStageBytes;
    if (lane == 0) arrive_expecting(&here[stage], L::kStageBytes);
    __syncwarp();
    if (args.hidden != nullptr) {
      if (lane < kTileRows / kAtomRows) {
        copy_box(to + lane * kAtomRows * kSwizzledBytes, maps.w[lane % 2], column,
                 tile.first_row + lane / 2 * kAtomRows, &here[stage]);
      }
    } else if (lane == 0) {
      copy_box(to, maps.w[tile.target], column, tile.first_row, &here[stage]);
    }
  };
  const auto bring_rows = [&](int unit, int stage) {
    if (lane == 0) {
      copy_box(ring + stage * L::kStageBytes + kTileBytes, maps.x,
               unit % args.units * kSwizzledColumns, 0, &here[stage]);
    }
  };
  // The weights of the first units need not wait for the kernel that makes x.
  const int first = min(end - begin, L::kStages);
  for (int i = 0; i < first; ++i) bring_weights(begin + i, i);
  wait_for_inputs();
  for (int i = 0; i < first; ++i) bring_rows(begin + i, i);
  for (int i = first; i < end - begin; ++i) {
    const int stage = i % L::kStages;
    wait_for(&done[stage], (i / L::kStages % 2) ^ 1);
    bring_weights(begin + i, stage);
    bring_rows(begin + i, stage);
  }
}

/// Writes a tile's results, which the threads have in their registers.
template <int kRows>
__device__ void write(const BatchMatmulArgs& args, int index, const float (&sums)[kRows / 2]) {
  const int group = (static_cast<int>(threadIdx.x) - kWarpgroup) / kWarpgroup;
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Tile tile = tile_of(args, index);
  const int slab = group * 4 + warp;  // of 16 rows
  const auto& target = args.target[tile.target];
  if (args.hidden != nullptr) {
    const int n = tile.first_row + slab * kAtomRows + lane / 4;
    if (n >= target.n) return;
#pragma unroll
    for (int i = 0; i < kRows / 4; ++i) {
      const int m = i / 2 * 8 + lane % 4 * 2 + i % 2;
      if (m >= args.rows) continue;
      const float gate = sums[i / 2 * 4 + i % 2];
      const float up = sums[i / 2 * 4 + i % 2 + 2];
      args.hidden[static_cast<int64_t>(m) * target.n + n] =
          to_bf16_bits(args.gelu_tanh ? gated<true>(gate, up) : gated<false>(gate, up));
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) {
    const int n = tile.first_row + slab * 16 + lane / 4 + i % 4 / 2 * 8;
    const int m = i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (n < target.n && m < args.rows) target.out[static_cast<int64_t>(m) * target.n + n] = sums[i];
  }
}

template <int kRows>
__device__ void multiply(const BatchMatmulArgs& args, int begin, int end, int run, int runs,
                         uint8_t* ring, uint64_t* here, uint64_t* done, bool& last_here) {
  using L = Layout<kRows>;
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  const int group = thread / kWarpgroup;
  const int lane = thread % 32;
  const int all = args.tiles * args.units;
  for (int unit = begin; unit < end;) {
    const int index = unit / args.units;
    const int first_unit = unit % args.units;
    const int units = min(args.units - first_unit, end - unit);
    float sums[L::kSums];
#pragma unroll
    for (int i = 0; i < L::kSums; ++i) sums[i] = 0;
    for (int i = 0; i < units; ++i) {
      const int count = unit - begin + i;
      const int stage = count % L::kStages;
      wait_for(&here[stage], count / L::kStages % 2);
      const uint8_t* from = ring + stage * L::kStageBytes;
      const uint64_t w = swizzled_rows(from + group * 64 * kSwizzledBytes);
      const uint64_t x = swizzled_rows(from + kTileBytes);
      begin_products();
#pragma unroll
      for (int k = 0; k < kSwizzledColumns / 16; ++k) {
        product(sums, advanced(w, k * 32), advanced(x, k * 32), true);
      }
      commit_products();
      wait_for_products<1>();  // the unit before this one is done
      if (i > 0 && lane == 0) arrive(&done[(count - 1) % L::kStages]);
    }
    wait_for_products<0>();
    settle(sums);
    if (lane == 0) arrive(&done[(unit - begin + units - 1) % L::kStages]);

    if (units == args.units) {
      write<kRows>(args, index, sums);
    } else {
      // Two parts a run at most: of a tile that began before it, and of its last one.
      const auto slot = [&](int of_run, bool began_before) {
        return args.partials +
               (int64_t{2} * of_run + (began_before ? 0 : 1)) * L::kSums * kComputeThreads + thread;
      };
      float* mine = slot(run, first_unit > 0);
#pragma unroll
      for (int i = 0; i < L::kSums; ++i) mine[i * kComputeThreads] = sums[i];
      const auto run_of = [&](int64_t u) { return static_cast<int>(((u + 1) * runs - 1) / all); };
      const int first_run = run_of(int64_t{index} * args.units);
      const int last_run = run_of(int64_t{index} * args.units + args.units - 1);
      __threadfence();
      sync_threads(kComputeBarrier, kComputeThreads);
      if (thread == 0) {
        last_here = atomicAdd(args.arrivals + index, 1) + 1 ==
                    static_cast<uint32_t>(last_run - first_run + 1);
        if (last_here) args.arrivals[index] = 0;
      }
      sync_threads(kComputeBarrier, kComputeThreads);
      if (last_here) {
        __threadfence();
#pragma unroll
        for (int i = 0; i < L::kSums; ++i) sums[i] = 0;
        for (int r = first_run; r <= last_run; ++r) {
          const float* part = slot(r, r > first_run);
#pragma unroll
          for (int i = 0; i < L::kSums; ++i) {
            sums[i] = __fadd_rn(sums[i], __ldcg(part + i * kComputeThreads));
          }
        }
        write<kRows>(args, index, sums);
      }
      sync_threads(kComputeBarrier, kComputeThreads);  // `last_here` may be written again
    }
    unit += units;
  }
}

template <int kRows>
__global__ void __launch_bounds__(kThreads, 1)
    batch_kernel(const __grid_constant__ BatchMatmulArgs args,
                 const __grid_constant__ BatchMaps maps) {
  using L = Layout<kRows>;
  extern __shared__ uint8_t unaligned[];
  uint8_t* ring = unaligned + (kSwizzleAtomBytes - shared_address(unaligned) % kSwizzleAtomBytes) %
                                  kSwizzleAtomBytes;
  __shared__ uint64_t here[L::kStages];
  __shared__ uint64_t done[L::kStages];
  __shared__ bool last_here;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < L::kStages; ++stage) {
      init_barrier(&here[stage], 1);
      init_barrier(&done[stage], kComputeThreads / 32);
    }
    publish_barriers();
    prefetch_map(maps.x);
    for (int t = 0; t < args.targets; ++t) prefetch_map(maps.w[t]);
  }
  __syncthreads();
  const int64_t all = int64_t{args.tiles} * args.units;
  const auto runs = static_cast<int>(gridDim.x);
  const auto run = static_cast<int>(blockIdx.x);
  const auto begin = static_cast<int>(run * all / runs);
  const auto end = static_cast<int>((run + 1) * all / runs);
  if (threadIdx.x >= kWarpgroup) {
    wait_for_inputs();
    let_next_start();
    multiply<kRows>(args, begin, end, run, runs, ring, here, done, last_here);
  } else if (threadIdx.x < 32) {
    bring<kRows>(args, maps, begin, end, ring, here, done);
  }
}

template <int kRows>
cudaError_t launch(cudaStream_t stream, const BatchMatmulArgs& args, const BatchMaps& maps) {
  auto* kernel = batch_kernel<kRows>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Layout<kRows>::kBytes);
  if (status != cudaSuccess) return status;
  const int64_t all = int64_t{args.tiles} * args.units;
  const auto runs =
      static_cast<unsigned>(max(int64_t{1}, min(int64_t{multiprocessors()}, all / kLeastUnits)));
  return launch_early(kernel, dim3(runs), kThreads, Layout<kRows>::kBytes, stream, args, maps);
}

}  // namespace

int batch_box_rows(int rows) {
  for (const int most : {8, 16, 32, 64}) {
    if (rows <= most) return most;
  }
  return kMostBatchRows;
}

int batch_weight_box_rows(bool pairs) { return pairs ? kAtomRows : kTileRows; }

int64_t batch_partial_floats(int rows) {
  return int64_t{2} * multiprocessors() * kTileRows * batch_box_rows(rows);
}

bool plan_batch(BatchMatmulArgs& args) {
  args.units = (args.k + kSwizzledColumns - 1) / kSwizzledColumns;
  args.tiles = 0;
  for (int t = 0; t < args.targets; ++t) {
    args.first_tiles[t] = args.tiles;
    args.tiles += (args.target[t].n + kTileRows - 1) / kTileRows;
  }
  args.first_tiles[args.targets] = args.tiles;
  if (args.hidden != nullptr) args.tiles = (args.target[0].n + kTileRows / 2 - 1) / (kTileRows / 2);
  return args.tiles <= kMaxArrivals && int64_t{args.tiles} * args.units < INT32_MAX;
}

cudaError_t batch_matmul(cudaStream_t stream, const BatchMatmulArgs& args, const BatchMaps& maps) {
  switch (batch_box_rows(args.rows)) {
    case 8:
      return launch<8>(stream, args, maps);
    case 16:
      return launch<16>(stream, args, maps);
    case 32:
      return launch<32>(stream, args, maps);
    case 64:
      return launch<64>(stream, args, maps);
    default:
      return launch<kMostBatchRows>(stream, args, maps);
  }
}

}  // namespace fourfold::backend::cuda
