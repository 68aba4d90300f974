#include "backend/cuda/stream.h"

#include <algorithm>
#include <utility>

#include "backend/host_ops.h"
#include "base/check.h"

namespace fourfold::backend::cuda {

CudaStream::CudaStream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  for (Span& span : spans_) {
    check(cudaEventCreate(&span.begin), "making an event");
    check(cudaEventCreate(&span.end), "making an event");
  }
  constexpr size_t kArrivalBytes = kMaxArrivals * sizeof(uint32_t);
  check(cudaMalloc(reinterpret_cast<void**>(&arrivals_), kArrivalBytes), "allocating counters");
  check(cudaMemsetAsync(arrivals_, 0, kArrivalBytes, stream_), "clearing counters");
  cublas = CublasMatmul::create();
}

CudaStream::~CudaStream() {
  cudaStreamSynchronize(stream_);
  for (auto& [key, graph] : graphs_) {
    if (graph.exec != nullptr) cudaGraphExecDestroy(graph.exec);
  }
  cublas.reset();
  cudaFree(arrivals_);
  for (const Span& span : spans_) {
    cudaEventDestroy(span.begin);
    cudaEventDestroy(span.end);
  }
  cudaStreamDestroy(stream_);
}

cudaStream_t CudaStream::begin() {
  if (!std::exchange(busy_, true)) {
    check(cudaEventRecord(span(next_mark_).begin, stream_), "beginning a step");
  }
  enqueue_split();
  return stream_;
}

void CudaStream::split_later(const SplitArgs& split) {
  begin();
  split_ = split;
}

void CudaStream::enqueue_split() {
  if (!split_) return;
  check(split_columns(stream_, *split_), "splitting columns");
  split_.reset();
}

const float* CudaStream::take_over_split(std::initializer_list<View> outs) {
  if (!split_ || std::ssize(outs) != split_->targets) return nullptr;
  const auto same = [](const View& out, const SplitArgs::Target& target) {
    return out.data == target.out && out.shape.elements() == out.rows() * target.n;
  };
  if (!std::equal(outs.begin(), outs.end(), split_->target.begin(), same)) return nullptr;
  return std::exchange(split_, std::nullopt)->x;
}

int64_t CudaStream::mark() {
  begin();
  busy_ = false;
  check(cudaEventRecord(span(next_mark_).end, stream_), "ending a step");
  return next_mark_++;
}

void CudaStream::wait(int64_t mark) {
  CHECK(mark < next_mark_ && next_mark_ - mark <= kMaxMarks, "mark {} of {}", mark, next_mark_);
  wait_for(span(mark));
}

void CudaStream::wait_for(const Span& span) {
  check(cudaEventSynchronize(span.end), "waiting for the GPU");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, span.begin, span.end), "reading the GPU's clock");
  counters.seconds += double{milliseconds} * 1e-3;
}

void CudaStream::synchronize() {
  CHECK(!capturing_, "a captured step waits for the GPU");
  enqueue_split();
  if (!std::exchange(busy_, false)) {
    return check(cudaStreamSynchronize(stream_), "waiting for the GPU");
  }
  // The events of the next mark, which nobody waits for yet: whoever synchronises often must not
  // use up the marks of steps in progress.
  check(cudaEventRecord(span(next_mark_).end, stream_), "waiting for the GPU");
  wait_for(span(next_mark_));
}

void CudaStream::note_attention(const KvLayer& cache, int64_t heads, int64_t window) {
  if (!capturing_) return;
  const auto same = [&](const Attentions& known) {
    return known.cache.kv_heads == cache.kv_heads && known.cache.head_dim == cache.head_dim &&
           known.heads == heads && known.window == window;
  };
  const auto it = std::find_if(noted_.begin(), noted_.end(), same);
  Attentions& attentions =
      it != noted_.end() ? *it : noted_.emplace_back(Attentions{cache, heads, window, /*count=*/0});
  ++attentions.count;
}

void CudaStream::count(OpCounters& counters, const std::vector<Attentions>& attentions,
                       const RowLayout& rows) {
  for (const Attentions& a : attentions) {
    OpCounters one;
    count_attention(one, rows.on_host(), a.cache, a.heads, a.window, sizeof(uint16_t));
    counters.attention_flops += a.count * one.attention_flops;
    counters.bytes += a.count * one.bytes;
  }
}

void CudaStream::capture(Graph& graph, const RowLayout& rows,
                         const std::function<void()>& enqueue) {
  const OpCounters before = counters;
  capturing_ = true;
  noted_.clear();
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "capturing a step");
  cudaGraph_t captured = nullptr;
  try {
    enqueue();
    enqueue_split();
  } catch (...) {
    capturing_ = false;
    cudaStreamEndCapture(stream_, &captured);
    throw;
  }
  capturing_ = false;
  check(cudaStreamEndCapture(stream_, &captured), "capturing a step");
  const cudaError_t status = cudaGraphInstantiate(&graph.exec, captured, 0);
  cudaGraphDestroy(captured);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the operators do without a graph
    graph.exec = nullptr;
    counters = before;
    return;
  }
  check(status, "making a graph of a step");
  graph.attentions = std::move(noted_);
  OpCounters attention;
  count(attention, graph.attentions, rows);
  graph.work.matmul_flops = counters.matmul_flops - before.matmul_flops;
  graph.work.bytes = counters.bytes - before.bytes - attention.bytes;
  counters = before;  // launching it counts
}

void CudaStream::repeat(std::span<const int64_t> key, const RowLayout& rows,
                        const std::function<void()>& enqueue) {
  const auto [it, first] = graphs_.try_emplace({key.begin(), key.end()});
  if (first) return enqueue();
  Graph& graph = it->second;
  begin();
  if (graph.exec == nullptr) capture(graph, rows, enqueue);
  if (graph.exec == nullptr) return enqueue();
  check(cudaGraphLaunch(graph.exec, stream_), "launching a step");
  counters.matmul_flops += graph.work.matmul_flops;
  counters.bytes += graph.work.bytes;
  count(counters, graph.attentions, rows);
}

void CudaStream::prepare(std::span<const int64_t> key, const RowLayout& rows,
                         const std::function<void()>& enqueue) {
  Graph& graph = graphs_[{key.begin(), key.end()}];
  begin();
  if (graph.exec == nullptr) capture(graph, rows, enqueue);
  if (graph.exec != nullptr) check(cudaGraphUpload(graph.exec, stream_), "readying a step");
}

void CudaStream::break_device() { check(trap(begin()), "breaking it"); }

CudaStream& stream_of(Stream& stream) {
  auto* cuda = dynamic_cast<CudaStream*>(&stream);
  CHECK(cuda != nullptr, "a stream of another backend");
  return *cuda;
}

}  // namespace fourfold::backend::cuda
