#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "backend/cuda/check.h"
#include "backend/cuda/cublas_lt.h"
#include "backend/cuda/kernels.h"
#include "backend/ops.h"

namespace fourfold::backend::cuda {

/// A CUDA stream. Its counted seconds are the GPU's from the first operator after a mark to the
/// next mark.
class CudaStream final : public Stream {
 public:
  CudaStream();
  ~CudaStream() override;

  /// For an operator that is about to be enqueued.
  cudaStream_t begin();

  /// Enqueues the split with what is enqueued next, unless that takes it over.
  void split_later(const SplitArgs& split);
  /// Where the outputs of a split that is still to come, these and no others, are to be read from
  /// by whoever fills them now in its place; null where there is no such split.
  const float* take_over_split(std::initializer_list<View> outs);

  void synchronize() override;
  int64_t mark() override;
  void wait(int64_t mark) override;
  /// Runs the operators the first time, unless they were prepared, captures them as a graph the
  /// second, and launches that from then on.
  void repeat(std::span<const int64_t> key, const RowLayout& rows,
              const std::function<void()>& enqueue) override;
  void* handle() override { return begin(); }
  void break_device() override;
  void prepare(std::span<const int64_t> key, const RowLayout& rows,
               const std::function<void()>& enqueue) override;
  void rehearse(bool on) override {
    if (cublas != nullptr) cublas->tune(on);
  }

  /// An attention that has been counted: its work differs whenever a graph of it is launched.
  void note_attention(const KvLayer& cache, int64_t heads, int64_t window);

  /// kMaxArrivals counters of attention.
  uint32_t* arrivals() const { return arrivals_; }

  std::unique_ptr<CublasMatmul> cublas;  ///< null where the library is missing

 private:
  /// Attentions of a graph that do the same work.
  struct Attentions {
    KvLayer cache;
    int64_t heads = 0;
    int64_t window = 0;
    int64_t count = 0;
  };
  struct Graph {
    cudaGraphExec_t exec = nullptr;
    OpCounters work;  ///< of one launch, but for its attentions
    std::vector<Attentions> attentions;
  };
  void capture(Graph& graph, const RowLayout& rows, const std::function<void()>& enqueue);
  static void count(OpCounters& counters, const std::vector<Attentions>& attentions,
                    const RowLayout& rows);

  /// The events around what lies between two marks.
  struct Span {
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
  };
  void wait_for(const Span& span);
  void enqueue_split();
  Span& span(int64_t mark) { return spans_.at(static_cast<size_t>(mark) % spans_.size()); }

  cudaStream_t stream_ = nullptr;
  uint32_t* arrivals_ = nullptr;
  std::array<Span, kMaxMarks> spans_;
  int64_t next_mark_ = 0;
  bool busy_ = false;  ///< something was enqueued after the last mark
  bool capturing_ = false;
  std::optional<SplitArgs> split_;  ///< that is still to be enqueued
  std::vector<Attentions> noted_;   ///< while capturing
  std::map<std::vector<int64_t>, Graph> graphs_;
};

CudaStream& stream_of(Stream& stream);

}  // namespace fourfold::backend::cuda
