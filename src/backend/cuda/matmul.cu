// One kernel for all matmuls whose order of additions is ours. A weight is read from memory once,
// by 16-byte loads straight into the registers of the tensor core: it is the left operand, rows of
// x are the columns of the right one. Within 32 columns lane t of four takes columns 8t to 8t+7 of
// its row of w and of its row of x alike; the first four of each go into the first mma and the
// others into the second. A sum over k does not mind which of the hardware's k they are.

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
    return __ldg(reinterpret_cast<const uint4*>(row + column));
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
            const auto of = [&](int s) { return joined[warp + s][i][lane]; };
            float sum = of(0) + of(1);
            if (args.slices.count >= 4) sum += of(2) + of(3);
            if (args.slices.count == 8) sum += (of(4) + of(5)) + (of(6) + of(7));
            sums[r][c][i] = sum;
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

template <int kRowTiles, int kColumnTiles, int kUnroll>
cudaError_t launch(cudaStream_t stream, const MatmulArgs& args, bool aligned) {
  int first_tiles[kMaxTargets] = {};
  int tiles = 0;
  for (int t = 0; t < kMaxTargets; ++t) {
    first_tiles[t] = tiles;
    if (t < args.targets) {
      tiles += (args.target[static_cast<size_t>(t)].n + 16 * kRowTiles - 1) / (16 * kRowTiles);
    } else {
      first_tiles[t] = 1 << 30;
    }
  }
  const int tiles_of_block = kWarps / args.slices.count;
  const auto row_blocks = static_cast<unsigned>((tiles + tiles_of_block - 1) / tiles_of_block);
  const auto column_blocks =
      static_cast<unsigned>((args.rows + 8 * kColumnTiles - 1) / (8 * kColumnTiles));
  // Neighbouring blocks share what is larger: a tile of w is then read from memory once.
  const bool columns_first = column_blocks > 1;
  const dim3 grid = columns_first ? dim3(column_blocks, row_blocks) : dim3(row_blocks, 1);
  auto* kernel = aligned ? matmul_kernel<kRowTiles, kColumnTiles, kUnroll, true>
                         : matmul_kernel<kRowTiles, kColumnTiles, kUnroll, false>;
  kernel<<<grid, 32 * kWarps, 0, stream>>>(args, first_tiles[1], first_tiles[2], first_tiles[3],
                                           tiles, columns_first);
  return cudaGetLastError();
}

}  // namespace

cudaError_t matmul(cudaStream_t stream, const MatmulArgs& args) {
  if (args.rows == 0 || args.targets == 0) return cudaSuccess;
  bool aligned = args.k % 8 == 0;
  int begin = 0;
  for (int s = 0; s < args.slices.count; ++s) {
    const int end = args.slices.x_ends[static_cast<size_t>(s)];
    aligned = aligned && begin % 8 == 0 && (end - begin) % kChunk == 0;
    begin = end;
  }
  if (args.rows <= 8) return launch<1, 1, 8>(stream, args, aligned);
  if (args.rows <= 16) return launch<1, 2, 4>(stream, args, aligned);
  if (args.rows <= 32) return launch<1, 4, 4>(stream, args, aligned);
  return launch<2, 8, 2>(stream, args, aligned);
}

}  // namespace fourfold::backend::cuda
