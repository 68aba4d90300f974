#include "backend/cpu/matmul.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/host_ops.h"
#include "backend/slices.h"
#include "base/sizes.h"

namespace fourfold::backend {
namespace {

constexpr int64_t kTile = PackedMatrix::kTileRows;
constexpr int64_t kBlock = PackedMatrix::kBlockColumns;
constexpr int64_t kPartStride = kMaxTaskTiles * kTile;
constexpr int64_t kPartElements = kMaxTaskRows * kPartStride;
/// Sums that wait for their neighbour in the tree: log2 of the slices and the one being made.
constexpr int64_t kMaxParts = 4;
static_assert(kMaxSlices == 1 << (kMaxParts - 1));
/// Groups of rows of x lie a cache line further apart than their length: with a power of two
/// between them they would all fall into the same few sets of the cache.
constexpr int64_t kGroupGap = 32;
constexpr int64_t kMaxRowGroup = 16;

void convert(const uint16_t* from, int64_t n, uint16_t* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(uint16_t));
}
void convert(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = tensor::to_f32(tensor::BF16{from[i]});
}

/// One row of x in blocks `block_stride` apart, every slice padded with zeros as the matrix's is.
template <typename T>
void pad_row(const uint16_t* x, const PackedMatrix& w, int64_t block_stride, T* out) {
  int64_t k = 0;
  for (const int64_t end : w.slice_ends()) {
    while (k < end) {
      // Blocks that lie one after another are one copy.
      const int64_t n = block_stride == kBlock ? end - k : std::min(kBlock, end - k);
      const int64_t padded = base::round_up(n, kBlock);
      convert(x + k, n, out);
      std::fill(out + n, out + padded, T{0});
      out += padded / kBlock * block_stride;
      k += n;
    }
  }
}

/// The rows of x as the kernel reads them: range after range, each padded to whole groups.
struct PaddedRows {
  const MatmulKernel& kernel;
  int64_t rows = 0;  ///< a multiple of the kernel's row_group
  int64_t columns;
  View data = {};
  std::vector<RowRange> ranges = {};
  std::vector<int64_t> begins = {};  ///< of each range among the padded rows

  /// The range is among those of `ranges` from now on.
  void add(RowRange range) {
    ranges.push_back(range);
    begins.push_back(rows);
    rows += base::round_up(range.size(), kernel.row_group);
  }
  int64_t group_stride() const { return columns * kernel.row_group + kGroupGap; }
  int64_t element(int64_t row, int64_t block) const {
    return row / kernel.row_group * group_stride() +
           (block * kernel.row_group + row % kernel.row_group) * kBlock;
  }
  const void* at(int64_t row, int64_t block) const {
    return static_cast<const std::byte*>(data.data) +
           element(row, block) * tensor::size_of(data.dtype);
  }
};

template <typename T>
void pad_rows(ThreadPool& pool, View x, const PackedMatrix& w, const PaddedRows& padded, T* out) {
  const int64_t block_stride = padded.kernel.row_group * kBlock;
  pool.parallel_for(padded.rows, row_grain(padded.columns), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const auto range =
          static_cast<size_t>(std::upper_bound(padded.begins.begin(), padded.begins.end(), row) -
                              padded.begins.begin() - 1);
      const int64_t from = padded.ranges[range].begin + row - padded.begins[range];
      T* to = out + padded.element(row, 0);
      if (from < padded.ranges[range].end) {
        pad_row(&x.bf16()->bits + from * w.columns(), w, block_stride, to);
      } else {
        for (int64_t i = 0; i < padded.columns / kBlock; ++i) {
          std::fill_n(to + i * block_stride, kBlock, T{0});
        }
      }
    }
  });
}

/// One product of a matmul: what is the same for all its tasks.
struct Product {
  const PaddedRows& x;
  int64_t first_row;  ///< among the padded rows
  PackedProduct of;
  int64_t task_tiles;
  base::Numerics numerics;

  int64_t rows() const { return of.rows.size(); }
  int64_t row_chunks() const { return base::ceil_div(rows(), kMaxTaskRows); }
  int64_t tasks() const { return row_chunks() * base::ceil_div(of.w->tiles(), task_tiles); }
};

/// Tiles of a task of a product of `rows` rows, when `work` counts the tiles of all products times
/// their chunks of rows. Few rows stream the weights, and small tasks share them out evenly. Many
/// rows are read again from L3 by every task, so tasks are wide, as long as every thread gets some.
int64_t choose_task_tiles(const MatmulKernel& kernel, int64_t work, int64_t rows, int threads) {
  constexpr int64_t kFewRows = 32;
  constexpr int64_t kTasksPerThread = 4;
  if (rows <= kFewRows) return kernel.tiles;
  const int64_t share = work / (threads * kTasksPerThread);
  return std::clamp(share / kernel.tiles * kernel.tiles, kernel.tiles, kMaxTaskTiles);
}

/// The part of a product that one task computes.
struct Region {
  int64_t first_row;
  int64_t rows;  ///< the kernel's padding included
  int64_t first_tile;
  int64_t tiles;
};

/// sums[rows][192] of the blocks [begin, end) of K.
void sum_blocks(const Product& p, const Region& region, int64_t begin, int64_t end, float* sums) {
  if (begin == end) {
    std::fill_n(sums, region.rows * kPartStride, 0.0F);
    return;
  }
  p.x.kernel.run({.x = p.x.at(region.first_row, begin),
                  .x_stride = p.x.group_stride(),
                  .rows = region.rows,
                  .w = p.of.w->tile(region.first_tile) + begin * PackedMatrix::kBlockElements,
                  .tile_stride = p.of.w->tile_elements(),
                  .tiles = region.tiles,
                  .blocks = end - begin,
                  .out = sums,
                  .out_stride = kPartStride,
                  .accumulate = false});
}

/// The sums of every slice, joined by the tree as soon as both sides are there.
void sum_slices(const Product& p, const Region& region, float* parts) {
  const std::vector<int64_t>& ends = p.of.w->slice_end_blocks();
  const int64_t part_elements = region.rows * kPartStride;
  int64_t begin = 0;
  int64_t waiting = 0;
  for (size_t slice = 0; slice < ends.size(); ++slice) {
    sum_blocks(p, region, begin, ends[slice], parts + waiting * part_elements);
    ++waiting;
    for (size_t done = slice + 1; done % 2 == 0; done /= 2) {
      --waiting;
      float* left = parts + (waiting - 1) * part_elements;
      const float* right = left + part_elements;
      for (int64_t row = 0; row < region.rows; ++row) {
        for (int64_t i = row * kPartStride; i < row * kPartStride + region.tiles * kTile; ++i) {
          left[i] += right[i];
        }
      }
    }
    begin = ends[slice];
  }
}

void run_task(const Product& p, int64_t index, float* parts) {
  const PackedMatrix& w = *p.of.w;
  const int64_t first_row = index % p.row_chunks() * kMaxTaskRows;
  const int64_t first_tile = index / p.row_chunks() * p.task_tiles;
  const int64_t rows = std::min(kMaxTaskRows, p.rows() - first_row);
  const Region region{.first_row = p.first_row + first_row,
                      .rows = base::round_up(rows, p.x.kernel.row_group),
                      .first_tile = first_tile,
                      .tiles = std::min(p.task_tiles, w.tiles() - first_tile)};
  if (p.numerics == base::Numerics::kFast) {
    sum_blocks(p, region, 0, w.slice_end_blocks().back(), parts);
  } else {
    sum_slices(p, region, parts);
  }
  const int64_t first_column = first_tile * kTile;
  const int64_t columns = std::min(region.tiles * kTile, w.rows() - first_column);
  float* out = p.of.out.f32() + (p.of.rows.begin + first_row) * w.rows() + first_column;
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(parts + row * kPartStride, columns, out + row * w.rows());
  }
}

}  // namespace

int64_t matmul_scratch_bytes(int64_t rows, int64_t columns, int64_t ranges, int threads) {
  const int64_t padded = base::round_up(columns + kMaxSlices * (kBlock - 1), kBlock) + kGroupGap;
  // Only ranges with rows count, and each is padded by less than a group.
  const int64_t padded_rows =
      base::round_up(rows + std::min(rows, ranges) * (kMaxRowGroup - 1), kMaxRowGroup);
  return (padded_rows * padded + threads * kMaxParts * kPartElements) *
         tensor::size_of(DType::kF32);
}

void multiply(const MatmulKernel& kernel, ThreadPool& pool, Arena& arena, base::Numerics numerics,
              View x, std::span<const PackedProduct> products) {
  CHECK(!products.empty(), "a matmul without products");
  const PackedMatrix& first = *products.front().w;
  const int64_t mark = arena.mark();
  PaddedRows padded{.kernel = kernel, .columns = first.padded_columns()};
  int64_t work = 0;
  for (const PackedProduct& product : products) {
    CHECK(product.w->slice_ends() == first.slice_ends(), "matrices of different slices");
    const bool same = !padded.ranges.empty() && padded.ranges.back().begin == product.rows.begin;
    if (!same) padded.add(product.rows);
    work += product.w->tiles() * base::ceil_div(product.rows.size(), kMaxTaskRows);
  }
  if (padded.rows == 0) return;
  padded.data = arena.allocate(kernel.f32_rows ? DType::kF32 : DType::kBF16,
                               {padded.rows / kernel.row_group, padded.group_stride()});
  if (kernel.f32_rows) {
    pad_rows(pool, x, first, padded, padded.data.f32());
  } else {
    pad_rows(pool, x, first, padded, &padded.data.bf16()->bits);
  }
  const View parts = arena.allocate(DType::kF32, {pool.threads(), kMaxParts * kPartElements});

  std::vector<Product> all;
  std::vector<int64_t> task_ends;
  int64_t tasks = 0;
  int64_t multiplied = 0;
  size_t range = 0;
  for (const PackedProduct& product : products) {
    if (padded.ranges[range].begin != product.rows.begin) ++range;
    const int64_t rows = product.rows.size();
    const int64_t task_tiles = choose_task_tiles(kernel, work, rows, pool.threads());
    all.push_back({padded, padded.begins[range], product, task_tiles, numerics});
    task_ends.push_back(tasks += all.back().tasks());
    multiplied += product.w->tiles() * kTile * rows * padded.columns;
  }
  const int64_t task_work = multiplied / tasks;
  pool.parallel_for(tasks, row_grain(task_work / 16), [&](int64_t begin, int64_t end, int thread) {
    for (int64_t task = begin; task < end; ++task) {
      const auto i = static_cast<size_t>(
          std::upper_bound(task_ends.begin(), task_ends.end(), task) - task_ends.begin());
      run_task(all[i], task - (i == 0 ? 0 : task_ends[i - 1]),
               parts.f32() + thread * parts.shape[1]);
    }
  });
  arena.release_to(mark);
}

}  // namespace fourfold::backend
