#include "backend/cpu/packed_matrix.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "backend/slices.h"
#include "base/sizes.h"

namespace fourfold::backend {
namespace {

/// Loaded by a thread at a time, so that the pages of a file are given back in large pieces.
constexpr int64_t kLoadGrainElements = int64_t{1} << 20;

/// Read in one go: small enough to be packed out of the cache.
constexpr int64_t kReadElements = int64_t{1} << 17;

/// Elements whose first one lies `offset` bytes (even) past a multiple of 64.
class RowBuffer {
 public:
  RowBuffer(int64_t elements, int64_t offset)
      : values_(static_cast<size_t>(elements + 64)), begin_(values_.data()) {
    constexpr uintptr_t kLine = 64;
    const uintptr_t missing =
        (static_cast<uintptr_t>(offset) - reinterpret_cast<uintptr_t>(begin_)) % kLine;
    begin_ += missing / sizeof(uint16_t);
  }
  std::span<uint16_t> first(int64_t elements) { return {begin_, static_cast<size_t>(elements)}; }

 private:
  std::vector<uint16_t> values_;
  uint16_t* begin_;
};

std::vector<int64_t> end_blocks_of(const MatrixShape& shape) {
  std::vector<int64_t> blocks;
  int64_t begin = 0;
  int64_t block = 0;
  for (const int64_t end : shape.slice_ends) {
    block += base::ceil_div(end - begin, PackedMatrix::kBlockColumns);
    blocks.push_back(block);
    begin = end;
  }
  return blocks;
}

/// Calls visit(k, index) for every column of a row: its place relative to lane 0 of the row's tile.
template <typename Visit>
void for_each_column(const PackedMatrix& matrix, const Visit& visit) {
  int64_t k = 0;
  int64_t first_block = 0;
  for (size_t slice = 0; slice < matrix.slice_ends().size(); ++slice) {
    const int64_t begin = k;
    for (; k < matrix.slice_ends()[slice]; ++k) {
      const int64_t padded = first_block * PackedMatrix::kBlockColumns + k - begin;
      visit(k, padded / 2 * (2 * PackedMatrix::kTileRows) + padded % 2);
    }
    first_block = matrix.slice_end_blocks()[slice];
  }
}

}  // namespace

PackedMatrix::PackedMatrix(const MatrixShape& shape, Buffer buffer)
    : Weight(shape.rows, shape.columns, buffer.bytes()),
      slice_ends_(shape.slice_ends),
      slice_end_blocks_(end_blocks_of(shape)),
      tiles_(base::ceil_div(shape.rows, kTileRows)),
      buffer_(std::move(buffer)) {}

int64_t PackedMatrix::bytes_of(const MatrixShape& shape) {
  check_slices(shape);
  return base::ceil_div(shape.rows, kTileRows) * end_blocks_of(shape).back() * kBlockElements *
         tensor::size_of(DType::kBF16);
}

base::Result<WeightPtr> PackedMatrix::load(const RowKernels& kernels, ThreadPool& pool,
                                           const MatrixShape& shape, const RowReader& reader) {
  FF_ASSIGN(Buffer buffer, tensor::allocate_host(bytes_of(shape)));
  std::unique_ptr<PackedMatrix> matrix(new PackedMatrix(shape, std::move(buffer)));
  const auto columns = static_cast<size_t>(shape.columns);
  const int64_t grain =
      std::max<int64_t>(1, kLoadGrainElements / (kTileRows * (shape.columns + 1)));
  const std::vector<uint16_t> zeros(columns);
  const int64_t tiles_at_once =
      std::clamp<int64_t>(kReadElements / (kTileRows * (shape.columns + 1)), 1, grain);
  const auto load_tiles = [&](int64_t begin, int64_t end) -> base::Status {
    std::vector<float> wide(reader.bf16 ? 0 : columns);
    RowBuffer values(tiles_at_once * kTileRows * shape.columns, reader.bf16_offset);
    for (int64_t tile = begin; tile < end; tile += tiles_at_once) {
      const int64_t first = tile * kTileRows;
      const int64_t last =
          std::min({(tile + tiles_at_once) * kTileRows, end * kTileRows, shape.rows});
      const std::span<uint16_t> read = values.first((last - first) * shape.columns);
      if (reader.bf16) {
        FF_TRY(reader.bf16(first, last, read));
      } else {
        for (int64_t row = first; row < last; ++row) {
          FF_TRY(reader.read(row, wide));
          kernels.to_bf16(wide.data(), shape.columns, read.data() + (row - first) * shape.columns);
        }
      }
      for (int64_t row = first; row < last; row += kTileRows) {
        std::array<const uint16_t*, kTileRows> rows;
        for (int64_t i = 0; i < kTileRows; ++i) {
          rows[i] = row + i < last ? read.data() + (row + i - first) * shape.columns : zeros.data();
        }
        matrix->pack_tile(kernels, rows, row / kTileRows);
      }
    }
    if (reader.loaded) reader.loaded(begin * kTileRows, std::min(end * kTileRows, shape.rows));
    return {};
  };

  std::mutex mutex;
  base::Status status;  // the first error
  std::atomic<bool> failed = false;
  pool.parallel_for(matrix->tiles(), grain, [&](int64_t begin, int64_t end, int) {
    // One thread alone gets all tiles as one range.
    for (int64_t tile = begin; tile < end && !failed; tile += grain) {
      base::Status loaded = load_tiles(tile, std::min(tile + grain, end));
      if (loaded.ok()) continue;
      const std::lock_guard lock(mutex);
      if (!failed.exchange(true)) status = std::move(loaded);
    }
  });
  FF_TRY(status);
  return WeightPtr(std::move(matrix));
}

void PackedMatrix::pack_tile(const RowKernels& kernels, std::array<const uint16_t*, kTileRows> rows,
                             int64_t index) {
  uint16_t* out = static_cast<uint16_t*>(buffer_.data()) + index * tile_elements();
  int64_t begin = 0;
  for (size_t slice = 0; slice < slice_ends_.size(); ++slice) {
    const int64_t columns = slice_ends_[slice] - begin;
    kernels.pack_rows(rows.data(), columns, out);
    for (const uint16_t*& row : rows) row += columns;
    out += base::round_up(columns, kBlockColumns) * kTileRows;
    begin = slice_ends_[slice];
  }
}

void PackedMatrix::read_row(int64_t n, std::span<float> out) const {
  CHECK(0 <= n && n < rows() && std::ssize(out) == columns(), "row {} of {}, {} columns", n, rows(),
        out.size());
  const uint16_t* row = tile(n / kTileRows) + n % kTileRows * 2;
  for_each_column(*this, [&](int64_t k, int64_t index) {
    out[static_cast<size_t>(k)] = tensor::to_f32(tensor::BF16{row[index]});
  });
}

}  // namespace fourfold::backend
