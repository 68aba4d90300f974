#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/ops.h"
#include "backend/thread_pool.h"

namespace fourfold::backend {

/// A bf16 matrix [N, K] in the one layout that all instruction sets, few and many rows, and the
/// embedding lookup read:
///
///     [N / 16][slice][K of the slice / 32][16 pairs of k][16 n][2]
///
/// One [16][16][2] block is 1 KiB: a B tile of AMX, or 16 vectors of 16 pairs. A tile of 16 output
/// columns is contiguous, so few rows stream it once in address order. N is padded to 16 and every
/// slice to 32 columns, with zeros.
class PackedMatrix final : public Weight {
 public:
  static constexpr int64_t kTileRows = 16;      ///< n of a tile
  static constexpr int64_t kBlockColumns = 32;  ///< k of a block
  static constexpr int64_t kBlockElements = kTileRows * kBlockColumns;

  static int64_t bytes_of(const MatrixShape& shape);
  /// Packs the rows, rounded where they are not bf16, tile by tile over the threads.
  static base::Result<WeightPtr> load(const RowKernels& kernels, ThreadPool& pool,
                                      const MatrixShape& shape, const RowReader& reader);

  int64_t tiles() const { return tiles_; }
  /// Ends of the slices in columns, and in blocks with the padding counted.
  const std::vector<int64_t>& slice_ends() const { return slice_ends_; }
  const std::vector<int64_t>& slice_end_blocks() const { return slice_end_blocks_; }
  int64_t padded_columns() const { return slice_end_blocks_.back() * kBlockColumns; }

  const uint16_t* tile(int64_t index) const {
    return static_cast<const uint16_t*>(buffer_.data()) + index * tile_elements();
  }
  int64_t tile_elements() const { return padded_columns() * kTileRows; }

  /// Row n as fp32; out has columns() elements.
  void read_row(int64_t n, std::span<float> out) const;

 private:
  PackedMatrix(const MatrixShape& shape, Buffer buffer);
  /// Packs 16 rows of columns() bf16 values into a tile.
  void pack_tile(const RowKernels& kernels, std::array<const uint16_t*, kTileRows> rows,
                 int64_t index);

  std::vector<int64_t> slice_ends_;
  std::vector<int64_t> slice_end_blocks_;
  int64_t tiles_;
  Buffer buffer_;
};

}  // namespace fourfold::backend
