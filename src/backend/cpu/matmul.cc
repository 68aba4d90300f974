#include "backend/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "backend/host_ops.h"
#include "backend/slices.h"
#include "base/sizes.h"

namespace fourfold::backend {
namespace {

constexpr int64_t kTile = PackedMatrix::kTileRows;
constexpr int64_t kPartStride = kMaxTaskTiles * kTile;
constexpr int64_t kPartElements = kMaxSlices * kMaxTaskRows * kPartStride;
/// Rows of x lie a cache line further apart than their length: with a power of two between them
/// they would all fall into the same few sets of the cache.
constexpr int64_t kRowGap = 32;
constexpr int64_t kMaxRowMultiple = 16;

void convert(const uint16_t* from, int64_t n, uint16_t* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(uint16_t));
}
void convert(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = tensor::to_f32(tensor::BF16{from[i]});
}

/// One row of x, every slice padded with zeros as the matrix's is.
template <typename T>
void pad_row(const uint16_t* x, const PackedMatrix& w, T* out) {
  int64_t begin = 0;
  for (size_t slice = 0; slice < w.slice_ends().size(); ++slice) {
    const int64_t end = w.slice_ends()[slice];
    T* slice_end = out + (end - begin);
    convert(x + begin, end - begin, out);
    const int64_t padded = base::round_up(end - begin, PackedMatrix::kBlockColumns) - (end - begin);
    std::fill_n(slice_end, padded, T{0});
    out = slice_end + padded;
    begin = end;
  }
}

/// x as the kernel reads it: [rows rounded up to row_multiple][padded K + gap].
template <typename T>
void pad_rows(ThreadPool& pool, View x, const PackedMatrix& w, int64_t padded_rows, T* out) {
  const int64_t stride = w.padded_columns() + kRowGap;
  pool.parallel_for(padded_rows, row_grain(stride), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      if (row < x.rows()) {
        pad_row(&x.bf16()->bits + row * w.columns(), w, out + row * stride);
      } else {
        std::fill_n(out + row * stride, w.padded_columns(), T{0});
      }
    }
  });
}

/// One product: what is the same for all its tasks.
struct Product {
  const MatmulKernel& kernel;
  const PackedMatrix& w;
  const void* x;  ///< padded
  int64_t rows;
  int64_t padded_rows;
  View out;
  int64_t task_tiles;

  int64_t row_chunks() const { return base::ceil_div(rows, kMaxTaskRows); }
  int64_t tile_groups() const { return base::ceil_div(w.tiles(), task_tiles); }
  const void* x_at(int64_t row, int64_t column) const {
    const int64_t element = row * (w.padded_columns() + kRowGap) + column;
    return static_cast<const std::byte*>(x) + element * (kernel.f32_rows ? 4 : 2);
  }
};

/// Tiles of a task. Few rows stream the weights, and small tasks share them out evenly. Many rows
/// are read again from L3 by every task, so tasks are wide, as long as every thread gets some.
int64_t choose_task_tiles(const MatmulKernel& kernel, int64_t tiles, int64_t rows, int threads) {
  constexpr int64_t kFewRows = 32;
  constexpr int64_t kTasksPerThread = 4;
  if (rows <= kFewRows) return kernel.tiles;
  const int64_t row_chunks = base::ceil_div(rows, kMaxTaskRows);
  const int64_t share = tiles * row_chunks / (threads * kTasksPerThread);
  return std::clamp(share / kernel.tiles * kernel.tiles, kernel.tiles, kMaxTaskTiles);
}

/// The sums of every slice of one task, joined, to the output. parts: [slices][rows][192].
void run_task(const Product& p, int64_t index, float* parts) {
  const int64_t first_row = index % p.row_chunks() * kMaxTaskRows;
  const int64_t first_tile = index / p.row_chunks() * p.task_tiles;
  const int64_t tiles = std::min(p.task_tiles, p.w.tiles() - first_tile);
  const int64_t computed = std::min(kMaxTaskRows, p.padded_rows - first_row);
  const int64_t slices = std::ssize(p.w.slice_end_blocks());
  int64_t block = 0;
  for (int64_t slice = 0; slice < slices; ++slice) {
    const int64_t end = p.w.slice_end_blocks()[static_cast<size_t>(slice)];
    float* sums = parts + slice * computed * kPartStride;
    if (end == block) {
      std::fill_n(sums, computed * kPartStride, 0.0F);
      continue;
    }
    p.kernel.run({.x = p.x_at(first_row, block * PackedMatrix::kBlockColumns),
                  .x_stride = p.w.padded_columns() + kRowGap,
                  .rows = computed,
                  .w = p.w.tile(first_tile) + block * PackedMatrix::kBlockElements,
                  .tile_stride = p.w.tile_elements(),
                  .tiles = tiles,
                  .blocks = end - block,
                  .out = sums,
                  .out_stride = kPartStride});
    block = end;
  }
  const int64_t rows = std::min(kMaxTaskRows, p.rows - first_row);
  const int64_t first_column = first_tile * kTile;
  const int64_t columns = std::min(tiles * kTile, p.w.rows() - first_column);
  for (int64_t row = 0; row < rows; ++row) {
    float* sums = parts + row * kPartStride;
    join_slices(sums, slices, computed * kPartStride, columns);
    std::copy_n(sums, columns, p.out.f32() + (first_row + row) * p.w.rows() + first_column);
  }
}

}  // namespace

int64_t matmul_scratch_bytes(int64_t rows, int64_t columns, int threads) {
  const int64_t stride =
      base::round_up(columns + kMaxSlices * (PackedMatrix::kBlockColumns - 1), 32) + kRowGap;
  return (base::round_up(rows, kMaxRowMultiple) * stride + threads * kPartElements) *
         tensor::size_of(DType::kF32);
}

void multiply(const MatmulKernel& kernel, ThreadPool& pool, Arena& arena, View x,
              const PackedMatrix& w, View out) {
  if (x.rows() == 0 || w.rows() == 0) return;
  const int64_t mark = arena.mark();
  const int64_t padded_rows = base::round_up(x.rows(), kernel.row_multiple);
  const View padded = arena.allocate(kernel.f32_rows ? DType::kF32 : DType::kBF16,
                                     {padded_rows, w.padded_columns() + kRowGap});
  if (kernel.f32_rows) {
    pad_rows(pool, x, w, padded_rows, padded.f32());
  } else {
    pad_rows(pool, x, w, padded_rows, &padded.bf16()->bits);
  }
  const View parts = arena.allocate(DType::kF32, {pool.threads(), kPartElements});
  const int64_t task_tiles = choose_task_tiles(kernel, w.tiles(), x.rows(), pool.threads());
  const Product product{kernel, w, padded.data, x.rows(), padded_rows, out, task_tiles};
  const int64_t task_work =
      task_tiles * kTile * std::min(x.rows(), kMaxTaskRows) * w.padded_columns();
  pool.parallel_for(product.row_chunks() * product.tile_groups(), row_grain(task_work / 16),
                    [&](int64_t begin, int64_t end, int thread) {
                      for (int64_t task = begin; task < end; ++task) {
                        run_task(product, task, parts.f32() + thread * kPartElements);
                      }
                    });
  arena.release_to(mark);
}

}  // namespace fourfold::backend
