#include "backend/cpu/packed_matrix.h"

#include <utility>

#include "backend/slices.h"
#include "base/sizes.h"

namespace fourfold::backend {
namespace {

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

base::Result<WeightPtr> PackedMatrix::load(const MatrixShape& shape, const RowReader& reader) {
  FF_ASSIGN(Buffer buffer, tensor::allocate_host(bytes_of(shape)));
  std::unique_ptr<PackedMatrix> matrix(new PackedMatrix(shape, std::move(buffer)));
  std::vector<float> values(static_cast<size_t>(shape.columns));
  for (int64_t n = 0; n < shape.rows; ++n) {
    FF_TRY(reader(n, values));
    matrix->write_row(n, values);
  }
  return WeightPtr(std::move(matrix));
}

void PackedMatrix::write_row(int64_t n, std::span<const float> values) {
  uint16_t* row =
      static_cast<uint16_t*>(buffer_.data()) + n / kTileRows * tile_elements() + n % kTileRows * 2;
  for_each_column(*this, [&](int64_t k, int64_t index) {
    row[index] = tensor::to_bf16(values[static_cast<size_t>(k)]).bits;
  });
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
