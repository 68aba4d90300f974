#pragma once

#include <memory>
#include <utility>

#include "backend/cuda/kernels.h"
#include "backend/ops.h"

namespace fourfold::backend::cuda {

/// Columns of a slice are padded to so many.
inline constexpr int64_t kChunkColumns = 32;

/// Where the slices of K lie in a row of x and in a row of the weight, where each is padded.
Slices slices_of(const MatrixShape& shape);
int64_t device_matrix_bytes(const MatrixShape& shape);

class DeviceVector final : public Weight {
 public:
  DeviceVector(Buffer buffer, int64_t size)
      : Weight(1, size, size * static_cast<int64_t>(sizeof(float))), buffer_(std::move(buffer)) {}
  const float* vector() const override { return static_cast<const float*>(buffer_.data()); }

 private:
  Buffer buffer_;
};

/// [rows][slices.stride] bf16, `offset` bytes into memory that others lie in, too.
class DeviceMatrix final : public Weight {
 public:
  DeviceMatrix(const MatrixShape& shape, std::shared_ptr<const Buffer> memory, int64_t offset)
      : Weight(shape.rows, shape.columns, device_matrix_bytes(shape)),
        slices(slices_of(shape)),
        memory_(std::move(memory)),
        data_(static_cast<const std::byte*>(memory_->data()) + offset) {}
  const uint16_t* data() const { return reinterpret_cast<const uint16_t*>(data_); }
  /// No padding: as PyTorch stores it.
  bool plain() const { return slices.stride == columns(); }

  const Slices slices;

 private:
  std::shared_ptr<const Buffer> memory_;
  const std::byte* data_;
};

inline uint16_t* bits_of(View view) { return &view.bf16()->bits; }
/// The values of a weight that load_vector of `cuda` made; it must hold `size` of them.
const float* device_vector(const Weight& weight, int64_t size);
/// A weight that load_matrix of `cuda` made.
const DeviceMatrix& device_matrix(const Weight& weight);

}  // namespace fourfold::backend::cuda
