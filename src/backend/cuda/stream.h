#pragma once

#include <memory>
#include <utility>

#include "backend/cuda/check.h"
#include "backend/cuda/cublas_lt.h"
#include "backend/ops.h"

namespace fourfold::backend::cuda {

/// A CUDA stream, with the time of the GPU between the first operator after a synchronisation and
/// the next one.
class CudaStream final : public Stream {
 public:
  CudaStream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    check(cudaEventCreate(&begin_), "making an event");
    check(cudaEventCreate(&end_), "making an event");
    cublas = CublasMatmul::create();
  }
  ~CudaStream() override {
    cublas.reset();
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }

  /// For an operator that is about to be enqueued.
  cudaStream_t begin() {
    if (!std::exchange(busy_, true)) check(cudaEventRecord(begin_, stream_), "beginning a step");
    return stream_;
  }

  void synchronize() override {
    if (!std::exchange(busy_, false)) return;
    check(cudaEventRecord(end_, stream_), "ending a step");
    check(cudaStreamSynchronize(stream_), "waiting for the GPU");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "reading the GPU's clock");
    counters.seconds += double{milliseconds} * 1e-3;
  }

  std::unique_ptr<CublasMatmul> cublas;  ///< null where the library is missing

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  bool busy_ = false;
};

inline CudaStream& stream_of(Stream& stream) {
  auto* cuda = dynamic_cast<CudaStream*>(&stream);
  CHECK(cuda != nullptr, "a stream of another backend");
  return *cuda;
}

}  // namespace fourfold::backend::cuda
