#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "base/check.h"
#include "tensor/dtype.h"

namespace fourfold::tensor {

/// Up to four sizes, row-major, the last one contiguous.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  constexpr Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    CHECK(dims.size() <= kMaxRank, "rank {} > {}", dims.size(), kMaxRank);
    for (const int64_t d : dims) {
      CHECK(d >= 0, "negative size {}", d);
      dims_[static_cast<size_t>(rank_++)] = d;
    }
  }

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
    return n;
  }
  bool operator==(const Shape&) const = default;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

/// Elements somewhere in memory that somebody else owns: pointer, type, shape; contiguous.
struct View {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;

  int64_t bytes() const { return shape.elements() * size_of(dtype); }
  int64_t rows() const { return shape[0]; }

  float* f32() const { return typed<float>(DType::kF32); }
  BF16* bf16() const { return typed<BF16>(DType::kBF16); }
  int32_t* i32() const { return typed<int32_t>(DType::kI32); }
  std::span<float> f32_span() const { return {f32(), static_cast<size_t>(shape.elements())}; }

  /// Rows [begin, end) of the first dimension.
  View slice_rows(int64_t begin, int64_t end) const;
  /// The same elements under another shape.
  View reshape(Shape to) const;

 private:
  template <typename T>
  T* typed(DType expected) const {
    CHECK(dtype == expected, "a {} view read as {}", name_of(dtype), name_of(expected));
    return static_cast<T*>(data);
  }
};

}  // namespace fourfold::tensor
