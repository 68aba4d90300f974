#include "tensor/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/sizes.h"

namespace fourfold::tensor {
namespace {
constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;
}  // namespace

Buffer::Buffer(void* data, int64_t bytes, std::function<void(void*, int64_t)> release)
    : data_(data), bytes_(bytes), release_(std::move(release)) {}

Buffer::~Buffer() {
  if (data_ != nullptr) release_(data_, bytes_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      release_(std::move(other.release_)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(release_, other.release_);
  return *this;
}

base::Result<Buffer> allocate_host(int64_t bytes) {
  if (bytes == 0) return Buffer();
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return base::fail("no memory for {} bytes: {}", bytes, std::strerror(errno));
  }
  if (bytes >= kHugePage) madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return Buffer(data, bytes, [](void* p, int64_t n) { munmap(p, static_cast<size_t>(n)); });
}

View Arena::allocate(DType dtype, Shape shape) {
  const int64_t bytes = base::round_up(shape.elements() * size_of(dtype), kAlignment);
  CHECK(used_ + bytes <= buffer_.bytes(), "arena of {} bytes: {} used, {} wanted", buffer_.bytes(),
        used_, bytes);
  View view{static_cast<std::byte*>(buffer_.data()) + used_, dtype, shape};
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return view;
}

View View::slice_rows(int64_t begin, int64_t end) const {
  CHECK(0 <= begin && begin <= end && end <= shape[0], "rows [{}, {}) of {}", begin, end, shape[0]);
  const int64_t row_bytes = shape[0] == 0 ? 0 : bytes() / shape[0];
  View out = *this;
  out.data = static_cast<std::byte*>(data) + begin * row_bytes;
  switch (shape.rank()) {
    case 1:
      out.shape = {end - begin};
      break;
    case 2:
      out.shape = {end - begin, shape[1]};
      break;
    case 3:
      out.shape = {end - begin, shape[1], shape[2]};
      break;
    default:
      out.shape = {end - begin, shape[1], shape[2], shape[3]};
      break;
  }
  return out;
}

View View::reshape(Shape to) const {
  CHECK(to.elements() == shape.elements(), "{} elements reshaped to {}", shape.elements(),
        to.elements());
  View out = *this;
  out.shape = to;
  return out;
}

}  // namespace fourfold::tensor
