#include "backend/cuda/weights.h"

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/stream.h"
#include "backend/thread_pool.h"
#include "base/machine.h"
#include "base/sizes.h"

namespace fourfold::backend::cuda {
namespace {

/// Threads that read weights, at most.
constexpr int kLoadThreads = 16;
constexpr int64_t kMostStagingBytes = int64_t{32} << 20;
constexpr int64_t kGrainBytes = int64_t{1} << 18;  ///< that a thread reads at once

}  // namespace

Slices slices_of(const MatrixShape& shape) {
  CHECK(std::ssize(shape.slice_ends) <= kMaxSlices, "{} slices", shape.slice_ends.size());
  Slices out{.count = 0};
  int64_t begin = 0;
  for (const int64_t end : shape.slice_ends) {
    out.x_ends.at(static_cast<size_t>(out.count)) = static_cast<int32_t>(end);
    out.w_begins.at(static_cast<size_t>(out.count)) = out.stride;
    out.stride += static_cast<int32_t>(base::round_up(end - begin, kChunkColumns));
    begin = end;
    ++out.count;
  }
  return out;
}

int64_t device_matrix_bytes(const MatrixShape& shape) {
  return shape.rows * slices_of(shape).stride * static_cast<int64_t>(sizeof(uint16_t));
}

const float* device_vector(const Weight& weight, int64_t size) {
  const auto* vector = dynamic_cast<const DeviceVector*>(&weight);
  CHECK(vector != nullptr, "a weight that load_vector of `cuda` did not make");
  CHECK(vector->columns() == size, "a vector of {} where {} are needed", vector->columns(), size);
  return vector->vector();
}

const DeviceMatrix& device_matrix(const Weight& weight) {
  const auto* matrix = dynamic_cast<const DeviceMatrix*>(&weight);
  CHECK(matrix != nullptr, "a weight that load_matrix of `cuda` did not make");
  return *matrix;
}

namespace {

/// Reads matrices with several threads into pinned memory and sends them on, both at once.
class Loader {
 public:
  static base::Result<Loader> create(const CudaOps& ops, cudaStream_t stream,
                                     int64_t staging_bytes) {
    Loader out(stream);
    for (Half& half : out.halves_) {
      FF_ASSIGN(half.staging, ops.allocate_host(staging_bytes));
      check(cudaEventCreateWithFlags(&half.sent, cudaEventDisableTiming), "making an event");
    }
    return out;
  }
  Loader(Loader&& other) noexcept
      : stream_(other.stream_),
        pool_(std::move(other.pool_)),
        halves_(std::exchange(other.halves_, {})) {}
  Loader& operator=(Loader&&) = delete;
  ~Loader() {
    for (const Half& half : halves_) {
      if (half.sent == nullptr) continue;  // it was moved from, or not made
      cudaEventSynchronize(half.sent);
      cudaEventDestroy(half.sent);
    }
  }

  base::Status load(const DeviceMatrix& matrix, const RowReader& reader) {
    const int64_t row_bytes = matrix.slices.stride * static_cast<int64_t>(sizeof(uint16_t));
    if (matrix.rows() == 0 || row_bytes == 0) return {};
    const int64_t room = halves_.front().staging.bytes();
    if (row_bytes > room) {
      return base::fail("a row of {} bytes in a matrix: at most {} can be loaded", row_bytes, room);
    }
    const int64_t rows_at_once = room / row_bytes;
    for (int64_t first = 0; first < matrix.rows(); first += rows_at_once, turn_ ^= 1) {
      const int64_t count = std::min(rows_at_once, matrix.rows() - first);
      Half& half = halves_.at(turn_);
      check(cudaEventSynchronize(half.sent), "loading weights");
      auto* to = static_cast<uint16_t*>(half.staging.data());
      FF_TRY(read(matrix, reader, first, count, to));
      // Of many rows at once: to give back their pages interrupts the cores of all threads.
      if (reader.loaded) reader.loaded(first, first + count);
      check(
          cudaMemcpyAsync(const_cast<uint16_t*>(matrix.data()) + first * matrix.slices.stride, to,
                          static_cast<size_t>(count * row_bytes), cudaMemcpyHostToDevice, stream_),
          "loading weights");
      check(cudaEventRecord(half.sent, stream_), "loading weights");
    }
    return {};
  }

 private:
  struct Half {
    Buffer staging;
    cudaEvent_t sent = nullptr;
  };

  explicit Loader(cudaStream_t stream)
      : stream_(stream),
        pool_(std::make_unique<ThreadPool>(
            static_cast<int>(std::min<size_t>(kLoadThreads, base::usable_cpus().size())),
            std::span<const int>())) {}

  base::Status read(const DeviceMatrix& matrix, const RowReader& reader, int64_t first,
                    int64_t count, uint16_t* to) {
    const int64_t stride = matrix.slices.stride;
    const int64_t grain = std::max<int64_t>(1, kGrainBytes / (stride * int64_t{2}));
    std::mutex mutex;
    base::Status status;
    pool_->parallel_for(count, grain, [&](int64_t begin, int64_t end, int) {
      const base::Status loaded =
          read_rows(matrix, reader, first + begin, first + end, to + begin * stride);
      const std::lock_guard lock(mutex);
      if (!loaded.ok() && status.ok()) status = loaded;
    });
    return status;
  }

  static base::Status read_rows(const DeviceMatrix& matrix, const RowReader& reader, int64_t begin,
                                int64_t end, uint16_t* to) {
    const Slices& slices = matrix.slices;
    if (reader.bf16 && matrix.plain()) {
      FF_TRY(reader.bf16(begin, end, {to, static_cast<size_t>((end - begin) * slices.stride)}));
    } else {
      std::vector<float> row(static_cast<size_t>(matrix.columns()));
      for (int64_t r = begin; r < end; ++r, to += slices.stride) {
        FF_TRY(reader.read(r, row));
        std::fill_n(to, slices.stride, uint16_t{0});
        int64_t column = 0;
        for (int s = 0; s < slices.count; ++s) {
          uint16_t* at = to + slices.w_begins.at(static_cast<size_t>(s));
          const int64_t slice_end = slices.x_ends.at(static_cast<size_t>(s));
          std::transform(row.begin() + column, row.begin() + slice_end, at,
                         [](float x) { return tensor::to_bf16(x).bits; });
          column = slice_end;
        }
      }
    }
    return {};
  }

  cudaStream_t stream_;
  std::unique_ptr<ThreadPool> pool_;
  std::array<Half, 2> halves_;
  size_t turn_ = 0;
};

}  // namespace

base::Result<WeightPtr> CudaOps::load_matrix(Stream& stream, const MatrixShape& shape,
                                             const RowReader& reader) const {
  const MatrixSource source{shape, [&] { return reader; }};
  FF_ASSIGN(std::vector<WeightPtr> loaded, load_matrices(stream, {&source, 1}));
  return std::move(loaded.front());
}

base::Result<std::vector<WeightPtr>> CudaOps::load_matrices(
    Stream& stream, std::span<const MatrixSource> sources) const {
  int64_t bytes = 0;
  for (const MatrixSource& source : sources) bytes += device_matrix_bytes(source.shape);
  std::vector<WeightPtr> out;
  FF_ASSIGN(Buffer buffer, allocate(bytes));
  const auto memory = std::make_shared<const Buffer>(std::move(buffer));
  const int64_t staging_bytes = std::min(bytes, kMostStagingBytes);
  FF_ASSIGN(Loader loader, Loader::create(*this, stream_of(stream).begin(), staging_bytes));
  int64_t offset = 0;
  for (const MatrixSource& source : sources) {
    auto matrix = std::make_unique<DeviceMatrix>(source.shape, memory, offset);
    FF_TRY(loader.load(*matrix, source.open()));
    offset += matrix->bytes();
    out.push_back(std::move(matrix));
  }
  stream.synchronize();
  return out;
}

base::Result<WeightPtr> CudaOps::load_vector(std::span<const float> values) const {
  FF_ASSIGN(Buffer buffer, allocate(static_cast<int64_t>(values.size_bytes())));
  check(cudaMemcpy(buffer.data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice),
        "loading a vector");
  // From memory that is not pinned the copy may still be on its way, and no other stream waits.
  check(cudaStreamSynchronize(nullptr), "loading a vector");
  return WeightPtr(std::make_unique<DeviceVector>(std::move(buffer), std::ssize(values)));
}

}  // namespace fourfold::backend::cuda
