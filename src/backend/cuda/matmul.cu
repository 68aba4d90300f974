// One kernel for all matmuls whose order of additions is ours. A weight is read from memory once,
// by 16-byte loads straight into the registers of the tensor core: it is the left operand, rows of
// x are the columns of the right one. Within 32 columns lane t of four takes columns 8t to 8t+7 of
// its row of w and of its row of x alike; the first four of each go into the first mma and the
// others into the second. A sum over k does not mind which of the hardware's k they are.

#include <algorithm>
#include <type_traits>

#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels.h"

namespace fourfold::backend::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kChunk = 32;  // columns

template <bool kAligned>
__device__ uint4 load_x(const uint16_t* row, int column, int end) {
  if constexpr (kAligned) {
    return *reinterpret_cast<const uint4*>(row + column);
  } else {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t low = column + 2 * i < end ? row[column + 2 * i] : 0;
      const uint32_t high = column + 2 * i + 1 < end ? row[column + 2 * i + 1] : 0;
      words[i] = low | high << 16;
    }
    return {words[0], words[1], words[2], words[3]};
  }
}

/// The join of the slices of one element, `of(s)` its part of slice s.
template <typename Of>
__device__ float join_slices(int slices, const Of& of) {
  float sum = of(0);
  if (slices >= 2) sum = sum + of(1);
  if (slices >= 4) sum += of(2) + of(3);
  if (slices == 8) sum += (of(4) + of(5)) + (of(6) + of(7));
  return sum;
}

/// A warp computes 16 * kRowTiles rows of w by 8 * kColumnTiles rows of x over one slice.
/// `kUnroll` chunks are loaded before any is used.
template <int kRowTiles, int kColumnTiles, int kUnroll, bool kAligned>
__global__ void __launch_bounds__(32 * kWarps)
    matmul_kernel(const __grid_constant__ MatmulArgs args, int first_tiles_1, int first_tiles_2,
                  int first_tiles_3, int all_tiles, bool columns_first) {
  __shared__ float joined[kWarps][4][32];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = lane / 4;
  const int quad = lane % 4;
  const int slice = warp % args.slices.count;
  const int tiles_of_block = kWarps / args.slices.count;
  const int row_block = static_cast<int>(columns_first ? blockIdx.y : blockIdx.x);
  const int column_block = static_cast<int>(columns_first ? blockIdx.x : blockIdx.y);
  int tile = row_block * tiles_of_block + warp / args.slices.count;
  const bool works = tile < all_tiles;
  tile = works ? tile : all_tiles - 1;
  const int t = (tile >= first_tiles_1) + (tile >= first_tiles_2) + (tile >= first_tiles_3);
  tile -= t == 0 ? 0 : t == 1 ? first_tiles_1 : t == 2 ? first_tiles_2 : first_tiles_3;
  const MatmulArgs::Target& target = args.target[static_cast<size_t>(t)];

  const int begin = slice == 0 ? 0 : args.slices.x_ends[static_cast<size_t>(slice - 1)];
  const int end = args.slices.x_ends[static_cast<size_t>(slice)];
  const int chunks = works ? (end - begin + kChunk - 1) / kChunk : 0;
  const int first_row = tile * 16 * kRowTiles + group;
  const int first_column = column_block * 8 * kColumnTiles;
  const uint16_t* w[kRowTiles][2];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(first_row + r * 16 + half * 8, target.n - 1);
      w[r][half] = target.w + static_cast<int64_t>(row) * args.slices.stride +
                   args.slices.w_begins[static_cast<size_t>(slice)] + quad * 8;
    }
  }
  const uint16_t* x[kColumnTiles];
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
    const int column = min(first_column + c * 8 + group, args.rows - 1);
    x[c] = args.x + static_cast<int64_t>(column) * args.k;
  }

  wait_for_inputs();
  let_next_start();
  float sums[kRowTiles][kColumnTiles][4] = {};
  const auto add_chunks = [&]<int kCount>(int chunk, std::integral_constant<int, kCount>) {
    uint4 ws[kCount][kRowTiles][2];
    uint4 xs[kCount][kColumnTiles];
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        ws[u][r][0] = load_streaming(w[r][0] + (chunk + u) * kChunk);
        ws[u][r][1] = load_streaming(w[r][1] + (chunk + u) * kChunk);
      }
    }
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
        xs[u][c] = load_x<kAligned>(x[c], begin + (chunk + u) * kChunk + quad * 8, end);
      }
    }
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        const uint4& low = ws[u][r][0];
        const uint4& high = ws[u][r][1];
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
          mma(sums[r][c], low.x, high.x, low.y, high.y, xs[u][c].x, xs[u][c].y);
          mma(sums[r][c], low.z, high.z, low.w, high.w, xs[u][c].z, xs[u][c].w);
        }
      }
    }
  };
  int chunk = 0;
  for (; chunk + kUnroll <= chunks; chunk += kUnroll) {
    add_chunks(chunk, std::integral_constant<int, kUnroll>());
  }
  for (; chunk < chunks; ++chunk) add_chunks(chunk, std::integral_constant<int, 1>());

#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      if (args.slices.count > 1) {
#pragma unroll
        for (int i = 0; i < 4; ++i) joined[warp][i][lane] = sums[r][c][i];
        __syncthreads();
        if (slice == 0) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sums[r][c][i] =
                join_slices(args.slices.count, [&](int s) { return joined[warp + s][i][lane]; });
          }
        }
        __syncthreads();
      }
      if (slice != 0 || !works) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = first_row + r * 16 + (i / 2) * 8;
        const int column = first_column + c * 8 + quad * 2 + i % 2;
        if (row < target.n && column < args.rows) {
          target.out[static_cast<int64_t>(column) * target.n + row] = sums[r][c][i];
        }
      }
    }
  }
}

// Few rows of x: all that matters is that the memory is never idle. A block stays on its
// multiprocessor and goes over tiles of w; each warp streams its slice of them through a ring of
// its own in shared memory, 64 columns of 16 rows at a time, whole lines of the memory, and the
// ring goes on into the next tile. It is filled before the kernel that makes x has ended.

constexpr int kRingBytes = 16384;  ///< of a warp
constexpr int kStageColumns = 64;

template <int kSets, int kColumnTiles>
struct Ring {
  static constexpr int kUnits = kSets * 16 * kStageColumns / 8;  ///< of 16 bytes, of a stage
  static constexpr int kStages = kRingBytes / (kUnits * 16);
  static constexpr int kElements = kSets * kColumnTiles * 4;  ///< of a lane
  static constexpr int kJoinBytes = 2 * kWarps * kElements * 32 * 4;
  static constexpr int kBytes = kWarps * kRingBytes + kJoinBytes;
};

/// Where tiles begin that belong to the second, third and fourth target.
struct TileMap {
  int first[kMaxTargets - 1];
  int all;
};

/// A tile is 16 rows of w for each set: neighbours, or if `kGated` of two targets, whose gated
/// activation is the result.
template <int kSets, int kColumnTiles, bool kGated>
__global__ void __launch_bounds__(32 * kWarps, 1)
    stream_kernel(const __grid_constant__ MatmulArgs args, const __grid_constant__ TileMap map) {
  using R = Ring<kSets, kColumnTiles>;
  extern __shared__ __align__(16) uint4 memory[];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = lane / 4;
  const int quad = lane % 4;
  const int slices = args.slices.count;
  const int slice = warp % slices;
  const int tiles_of_block = kWarps / slices;
  const int stride_of_tiles = static_cast<int>(gridDim.x) * tiles_of_block;
  const int first_tile = static_cast<int>(blockIdx.x) * tiles_of_block + warp / slices;
  uint4* ring = memory + warp * (kRingBytes / 16);
  float* joined = reinterpret_cast<float*>(memory + kWarps * (kRingBytes / 16));

  const int begin = slice == 0 ? 0 : args.slices.x_ends[static_cast<size_t>(slice - 1)];
  const int end = args.slices.x_ends[static_cast<size_t>(slice)];
  const int w_begin = args.slices.w_begins[static_cast<size_t>(slice)];
  const int chunks = (end - begin + kStageColumns - 1) / kStageColumns;
  const auto target_of = [&](int& tile) {
    if constexpr (kGated) return 0;
    const int t = (tile >= map.first[0]) + (tile >= map.first[1]) + (tile >= map.first[2]);
    if (t > 0) tile -= map.first[t - 1];
    return t;
  };

  // The copies: lane l takes 16 bytes, l % 8 of the line, of rows l / 8, l / 8 + 4, ...
  int copied_tile = first_tile;
  int copied_chunk = 0;
  int copied_stage = 0;
  const uint16_t* from[kSets][4];
  const auto begin_tile = [&] {
    if (copied_tile >= map.all) return;
    int tile = copied_tile;
    const int t = target_of(tile);
#pragma unroll
    for (int set = 0; set < kSets; ++set) {
      const MatmulArgs::Target& target = args.target[static_cast<size_t>(kGated ? set : t)];
      const int first_row = kGated ? tile * 16 : (tile * kSets + set) * 16;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = min(first_row + lane / 8 + 4 * i, target.n - 1);
        from[set][i] =
            target.w + static_cast<int64_t>(row) * args.slices.stride + w_begin + lane % 8 * 8;
      }
    }
  };
  const auto copy_chunk = [&] {
    if (copied_tile < map.all && chunks > 0) {
      const bool valid = begin + copied_chunk * kStageColumns + lane % 8 * 8 < end;
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = lane / 8 + 4 * i;
          uint4* to =
              ring + copied_stage * R::kUnits + (set * 16 + row) * 8 + (lane % 8 ^ row % 2 * 4);
          copy_async(to, valid ? from[set][i] + copied_chunk * kStageColumns : from[set][i], valid);
        }
      }
      copied_stage = copied_stage + 1 == R::kStages ? 0 : copied_stage + 1;
      if (++copied_chunk == chunks) {
        copied_chunk = 0;
        copied_tile += stride_of_tiles;
        begin_tile();
      }
    }
    commit_copies();
  };
  begin_tile();
#pragma unroll
  for (int i = 0; i < R::kStages - 1; ++i) copy_chunk();
  wait_for_inputs();
  let_next_start();

  const uint16_t* x[kColumnTiles];
#pragma unroll
  for (int c = 0; c < kColumnTiles; ++c) {
    x[c] = args.x + static_cast<int64_t>(min(c * 8 + group, args.rows - 1)) * args.k + begin +
           quad * 8;
  }
  int stage = 0;
  int turn = 0;
  const int last_tile = static_cast<int>(blockIdx.x) * tiles_of_block;
  for (int block_tile = last_tile; block_tile < map.all; block_tile += stride_of_tiles) {
    int tile = block_tile + warp / slices;
    const bool works = tile < map.all;
    float sums[kSets][kColumnTiles][4] = {};
    for (int chunk = 0; works && chunk < chunks; ++chunk) {
      uint4 xs[kColumnTiles][2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int column = chunk * kStageColumns + half * 32;
        const bool valid = begin + column + quad * 8 < end;
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
          xs[c][half] = valid ? *reinterpret_cast<const uint4*>(x[c] + column) : uint4{0, 0, 0, 0};
        }
      }
      wait_for_copies<R::kStages - 2>();
      __syncwarp();
      copy_chunk();  // into the stage that was read last
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint4* at = ring + stage * R::kUnits + (set * 16 + group) * 8 +
                            ((quad + half * 4) ^ group % 2 * 4);
          const uint4 low = at[0];
          const uint4 high = at[8 * 8];
#pragma unroll
          for (int c = 0; c < kColumnTiles; ++c) {
            const uint4& v = xs[c][half];
            mma(sums[set][c], low.x, high.x, low.y, high.y, v.x, v.y);
            mma(sums[set][c], low.z, high.z, low.w, high.w, v.z, v.w);
          }
        }
      }
      stage = stage + 1 == R::kStages ? 0 : stage + 1;
    }
    if (slices > 1) {
      float* mine = joined + ((turn * kWarps + warp) * R::kElements) * 32 + lane;
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            mine[((set * kColumnTiles + c) * 4 + i) * 32] = sums[set][c][i];
          }
        }
      }
      __syncthreads();
      turn ^= 1;
    }
    if (slice != 0 || !works) continue;
    const int t = target_of(tile);
    const MatmulArgs::Target& target = args.target[static_cast<size_t>(t)];
    const float* parts = joined + (((turn ^ 1) * kWarps + warp) * R::kElements) * 32 + lane;
    const auto total = [&](int set, int c, int i) {
      if (slices == 1) return sums[set][c][i];
      return join_slices(slices, [&](int s) {
        return parts[(s * R::kElements + (set * kColumnTiles + c) * 4 + i) * 32];
      });
    };
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = c * 8 + quad * 2 + i % 2;
        if (column >= args.rows) continue;
        if constexpr (kGated) {
          const int row = tile * 16 + group + i / 2 * 8;
          if (row >= target.n) continue;
          const float gate = total(0, c, i);
          const float up = total(1, c, i);
          args.hidden[static_cast<int64_t>(column) * target.n + row] =
              to_bf16_bits(args.gelu_tanh ? gated<true>(gate, up) : gated<false>(gate, up));
        } else {
#pragma unroll
          for (int set = 0; set < kSets; ++set) {
            const int row = (tile * kSets + set) * 16 + group + i / 2 * 8;
            if (row >= target.n) continue;
            target.out[static_cast<int64_t>(column) * target.n + row] = total(set, c, i);
          }
        }
      }
    }
  }
}

/// Whether the kernels may read x 16 bytes at a time.
bool is_aligned(const MatmulArgs& args) {
  bool aligned = args.k % 8 == 0;
  int begin = 0;
  for (int s = 0; s < args.slices.count; ++s) {
    const int end = args.slices.x_ends[static_cast<size_t>(s)];
    aligned = aligned && begin % 8 == 0 && (end - begin) % kChunk == 0;
    begin = end;
  }
  return aligned;
}

TileMap map_tiles(const MatmulArgs& args, int rows_of_tile) {
  TileMap map{.first = {}, .all = 0};
  for (int t = 0; t < kMaxTargets; ++t) {
    if (t > 0) map.first[t - 1] = t < args.targets ? map.all : 1 << 30;
    if (t < args.targets) {
      map.all += (args.target[static_cast<size_t>(t)].n + rows_of_tile - 1) / rows_of_tile;
    }
  }
  return map;
}

template <int kRowTiles, int kColumnTiles, int kUnroll>
cudaError_t launch(cudaStream_t stream, const MatmulArgs& args, bool aligned) {
  const TileMap map = map_tiles(args, 16 * kRowTiles);
  const int tiles_of_block = kWarps / args.slices.count;
  const auto row_blocks = static_cast<unsigned>((map.all + tiles_of_block - 1) / tiles_of_block);
  const auto column_blocks =
      static_cast<unsigned>((args.rows + 8 * kColumnTiles - 1) / (8 * kColumnTiles));
  // Neighbouring blocks share what is larger: a tile of w is then read from memory once.
  const bool columns_first = column_blocks > 1;
  const dim3 grid = columns_first ? dim3(column_blocks, row_blocks) : dim3(row_blocks, 1);
  auto* kernel = aligned ? matmul_kernel<kRowTiles, kColumnTiles, kUnroll, true>
                         : matmul_kernel<kRowTiles, kColumnTiles, kUnroll, false>;
  return launch_early(kernel, grid, 32 * kWarps, 0, stream, args, map.first[0], map.first[1],
                      map.first[2], map.all, columns_first);
}

/// Tiles of 32 rows of w read x half as often, where they do not leave more multiprocessors idle in
/// the last round.
bool wide_tiles_fit(const MatmulArgs& args) {
  const int blocks = multiprocessors() * kWarps / args.slices.count;
  const auto rounds = [&](int tiles) { return (tiles + blocks - 1) / blocks; };
  return 2 * rounds(map_tiles(args, 32).all) <= rounds(map_tiles(args, 16).all) * 33 / 32;
}

template <int kSets, int kColumnTiles, bool kGated>
cudaError_t stream_weights(cudaStream_t stream, const MatmulArgs& args) {
  using R = Ring<kSets, kColumnTiles>;
  TileMap map = map_tiles(args, kGated ? 16 : 16 * kSets);
  if (kGated) map.all /= 2;
  auto* kernel = stream_kernel<kSets, kColumnTiles, kGated>;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, R::kBytes);
  if (status != cudaSuccess) return status;
  const int tiles_of_block = kWarps / args.slices.count;
  const int blocks = std::min(multiprocessors(), (map.all + tiles_of_block - 1) / tiles_of_block);
  return launch_early(kernel, static_cast<unsigned>(blocks), 32 * kWarps, R::kBytes, stream, args,
                      map);
}

}  // namespace

bool streams(const MatmulArgs& args) { return is_aligned(args) && args.rows <= kMostStreamedRows; }

cudaError_t matmul(cudaStream_t stream, const MatmulArgs& args) {
  if (args.rows == 0 || args.targets == 0) return cudaSuccess;
  if (streams(args)) {
    if (args.hidden != nullptr) {
      if (args.rows <= 8) return stream_weights<2, 1, true>(stream, args);
      if (args.rows <= 16) return stream_weights<2, 2, true>(stream, args);
      return stream_weights<2, 4, true>(stream, args);
    }
    if (wide_tiles_fit(args)) {
      if (args.rows <= 8) return stream_weights<2, 1, false>(stream, args);
      if (args.rows <= 16) return stream_weights<2, 2, false>(stream, args);
      return stream_weights<2, 4, false>(stream, args);
    }
    if (args.rows <= 8) return stream_weights<1, 1, false>(stream, args);
    if (args.rows <= 16) return stream_weights<1, 2, false>(stream, args);
    return stream_weights<1, 4, false>(stream, args);
  }
  if (args.hidden != nullptr) return cudaErrorInvalidValue;
  const bool aligned = is_aligned(args);
  if (args.rows <= 8) return launch<1, 1, 8>(stream, args, aligned);
  if (args.rows <= 16) return launch<1, 2, 4>(stream, args, aligned);
  if (args.rows <= 32) return launch<1, 4, 4>(stream, args, aligned);
  return launch<2, 8, 2>(stream, args, aligned);
}

}  // namespace fourfold::backend::cuda
