#pragma once

// Rows as the bytes that exchanges move.

#include <cstddef>
#include <cstring>
#include <span>

#include "base/sizes.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace fourfold::model {

/// Of a view [rows, columns].
inline int64_t row_bytes(const tensor::View& view) { return view.shape[1] * size_of(view.dtype); }

inline std::byte* row_at(const tensor::View& view, int64_t row) {
  return static_cast<std::byte*>(view.data) + row * row_bytes(view);
}

/// Uninitialised.
inline std::span<std::byte> allocate_bytes(tensor::Arena& arena, int64_t bytes) {
  constexpr int64_t kWord = sizeof(int32_t);
  const tensor::View words = arena.allocate(tensor::DType::kI32, {base::ceil_div(bytes, kWord)});
  return {static_cast<std::byte*>(words.data), static_cast<size_t>(bytes)};
}

inline void copy_bytes(const std::byte* from, std::byte* to, int64_t bytes) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

}  // namespace fourfold::model
