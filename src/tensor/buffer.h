#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/result.h"
#include "tensor/view.h"

namespace fourfold::tensor {

/// Owned memory of a backend, 64-byte aligned. Move-only.
class Buffer {
 public:
  Buffer() = default;
  /// Takes over `data`; `release(data, bytes)` gives it back.
  Buffer(void* data, int64_t bytes, std::function<void(void*, int64_t)> release);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  std::function<void(void*, int64_t)> release_;
};

/// Zeroed host memory straight from the system, in huge pages where large; an error if there is not
/// enough.
base::Result<Buffer> allocate_host(int64_t bytes);

/// A bump allocator over one buffer for the intermediates of a step: nothing is allocated from the
/// system on the step path, and everything is given back at once by reset().
class Arena {
 public:
  explicit Arena(Buffer buffer) : buffer_(std::move(buffer)) {}

  /// A view of uninitialised memory, 64-byte aligned. Running out is a bug: the stage sizes its
  /// arena from its own limits.
  View allocate(DType dtype, Shape shape);
  /// Gives back everything allocated after `mark()` returned `mark`.
  int64_t mark() const { return used_; }
  void release_to(int64_t mark) { used_ = mark; }
  void reset() { used_ = 0; }

  int64_t peak_bytes() const { return peak_; }
  int64_t capacity_bytes() const { return buffer_.bytes(); }

 private:
  Buffer buffer_;
  int64_t used_ = 0;
  int64_t peak_ = 0;
};

}  // namespace fourfold::tensor
