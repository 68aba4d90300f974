#include "backend/cuda/weights.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <vector>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/stream.h"
#include "backend/thread_pool.h"
#include "base/machine.h"
#include "base/sizes.h"

namespace fourfold::backend::cuda {
namespace {

/// Threads that read weights from files; more than that do not speed up a page cache.
constexpr int kLoadThreads = 8;
constexpr int64_t kStagingBytes = int64_t{32} << 20;

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
  return vector->data();
}

const DeviceMatrix& device_matrix(const Weight& weight) {
  const auto* matrix = dynamic_cast<const DeviceMatrix*>(&weight);
  CHECK(matrix != nullptr, "a weight that load_matrix of `cuda` did not make");
  return *matrix;
}

base::Result<WeightPtr> CudaOps::load_matrix(Stream& stream, const MatrixShape& shape,
                                             const RowReader& reader) const {
  FF_ASSIGN(Buffer buffer, allocate(matrix_bytes(shape)));
  auto matrix = std::make_unique<DeviceMatrix>(shape, std::move(buffer));
  const Slices& slices = matrix->slices;
  if (matrix->bytes() == 0) return WeightPtr(std::move(matrix));
  const int64_t row_bytes = slices.stride * static_cast<int64_t>(sizeof(uint16_t));
  const int64_t rows_at_once = std::clamp<int64_t>(kStagingBytes / row_bytes, 1, shape.rows);
  // Two of them: one is filled while the other travels.
  std::array<Buffer, 2> staging;
  for (Buffer& half : staging) {
    FF_ASSIGN(half, allocate_host(rows_at_once * row_bytes));
  }
  const int threads = static_cast<int>(std::min<size_t>(kLoadThreads, base::usable_cpus().size()));
  ThreadPool pool(threads, {});
  const cudaStream_t to = stream_of(stream).begin();
  std::array<cudaEvent_t, 2> sent{};
  for (cudaEvent_t& event : sent) {
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  }
  std::mutex mutex;
  base::Status status;
  const auto load_rows = [&](int64_t begin, int64_t end, uint16_t* into) -> base::Status {
    if (reader.bf16 && matrix->plain()) {
      FF_TRY(reader.bf16(begin, end, {into, static_cast<size_t>((end - begin) * slices.stride)}));
    } else {
      std::vector<float> row(static_cast<size_t>(shape.columns));
      for (int64_t r = begin; r < end; ++r, into += slices.stride) {
        FF_TRY(reader.read(r, row));
        std::fill_n(into, slices.stride, uint16_t{0});
        int64_t column = 0;
        for (int s = 0; s < slices.count; ++s) {
          uint16_t* at = into + slices.w_begins.at(static_cast<size_t>(s));
          for (; column < slices.x_ends.at(static_cast<size_t>(s)); ++column) {
            *at++ = tensor::to_bf16(row[static_cast<size_t>(column)]).bits;
          }
        }
      }
    }
    if (reader.loaded) reader.loaded(begin, end);
    return {};
  };
  size_t turn = 0;
  for (int64_t first = 0; first < shape.rows && status.ok(); first += rows_at_once, turn ^= 1) {
    const int64_t count = std::min(rows_at_once, shape.rows - first);
    auto* half = static_cast<uint16_t*>(staging.at(turn).data());
    check(cudaEventSynchronize(sent.at(turn)), "loading weights");
    const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 20) / row_bytes);
    pool.parallel_for(count, grain, [&](int64_t begin, int64_t end, int) {
      const base::Status loaded =
          load_rows(first + begin, first + end, half + begin * slices.stride);
      const std::lock_guard lock(mutex);
      if (!loaded.ok() && status.ok()) status = loaded;
    });
    check(cudaMemcpyAsync(
              static_cast<std::byte*>(const_cast<void*>(static_cast<const void*>(matrix->data()))) +
                  first * row_bytes,
              half, static_cast<size_t>(count * row_bytes), cudaMemcpyHostToDevice, to),
          "loading weights");
    check(cudaEventRecord(sent.at(turn), to), "loading weights");
  }
  stream.synchronize();
  for (const cudaEvent_t event : sent) cudaEventDestroy(event);
  FF_TRY(status);
  return WeightPtr(std::move(matrix));
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
