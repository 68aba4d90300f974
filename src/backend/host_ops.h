#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "backend/ops.h"
#include "backend/thread_pool.h"

namespace fourfold::backend {

/// A rank's threads; an operator is done when its call returns.
class HostStream final : public Stream {
 public:
  HostStream(int threads, std::span<const int> cpus) : pool(threads, cpus) {}
  void synchronize() override {}
  int64_t mark() override { return 0; }
  void wait(int64_t /*mark*/) override {}
  void repeat(std::span<const int64_t> /*key*/, const RowLayout& /*rows*/,
              const std::function<void()>& enqueue) override {
    enqueue();
  }

  ThreadPool pool;
};

/// Adds the time of its scope to a stream's counters.
class OpTimer {
 public:
  explicit OpTimer(Stream& stream);
  ~OpTimer();
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

 private:
  Stream& stream_;
  int64_t begin_ns_;
};

/// What the backends in host memory share: memory, streams, fp32 vectors, and the operators that
/// move or add fp32 rows and so have one order of additions only.
class HostOps : public Ops {
 public:
  base::Result<Buffer> allocate(int64_t bytes) const final;
  bool in_host_memory() const final { return true; }
  base::Result<Buffer> allocate_host(int64_t bytes) const final { return allocate(bytes); }
  std::optional<int64_t> free_bytes() const final { return std::nullopt; }
  void copy_in(Stream& stream, View from, View to) const final;
  void copy_out(Stream& stream, View from, View to) const final;
  std::unique_ptr<Stream> make_stream(int threads, std::span<const int> cpus) const final;
  base::Result<WeightPtr> load_vector(std::span<const float> values) const final;
  base::Result<Peaks> measure_peaks(Stream& stream, double seconds, int sharers) const final;

  void resolve_tokens(Stream& stream, View tokens, View ring) const final;
  void route(Stream& stream, View logits, const Weight* bias, const Routing& routing, View experts,
             View weights) const final;
  void combine_slots(Stream& stream, View y, View weights, View out) const final;
  void add_bias(Stream& stream, View x, const Weight& bias) const final;
  void gate_rows(Stream& stream, View x, View gate) const final;
  void add(Stream& stream, View x, View y) const final;
  void gather_rows(Stream& stream, View x, View indices, View out) const final;
  void join_columns(Stream& stream, View parts, std::span<const int64_t> begins,
                    View out) const final;
  void take_columns(Stream& stream, View x, int64_t begin, View out) const final;
  void draw_rows(Stream& stream, View logits, View draws, View out) const final;
  void hash_rows(Stream& stream, View x, std::span<uint64_t> out) const final;

 private:
  /// Runs the instruction of matmul `steps` times on registers; the FLOPs that were.
  virtual double compute_in_registers(int64_t steps) const = 0;
};

ThreadPool& pool_of(Stream& stream);
/// The values of a weight that load_vector made; it must hold `size` of them.
const float* vector_of(const Weight& weight, int64_t size);

/// Items of `item_elements` elements each that are worth a hand-over to another thread.
int64_t row_grain(int64_t item_elements);

/// First position that the row at `position` attends to.
int64_t window_begin(int64_t position, int64_t window);

/// Rows [begin, end) of a step.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// Shapes of the operators' arguments, CHECKed.
/// Also adds the work to the stream's counters.
void check_matmul(Stream& stream, View x, DType x_dtype, const Weight& weight, View out);
/// The same for a grouped matmul; gives the rows of each group.
std::vector<RowRange> check_grouped_matmul(Stream& stream, View x, DType x_dtype,
                                           std::span<const int32_t> ends,
                                           std::initializer_list<Ops::GroupedTarget> targets);
void check_to_activation(View x, View out, DType activation_dtype);
void check_rms_norm(View x, View out, DType activation_dtype);
/// Also the positions, which are in host memory.
void check_norm_rope(View x, View positions, const RopeTable& rope);
void check_norm_rope_shapes(View x, View positions, const RopeTable& rope);
void check_kv_write(View keys, View values, const RowLayout& rows, const KvLayer& cache);
/// Also adds the work to the stream's counters.
void check_attention(Stream& stream, View queries, const RowLayout& rows, const KvLayer& cache,
                     const Ops::AttentionParams& params, View out, DType out_dtype, DType kv_dtype);
/// Adds the work of an attention; CHECKs the positions, which are in host memory.
void count_attention(OpCounters& counters, const RowLayout& rows, const KvLayer& cache,
                     int64_t heads, int64_t window, int64_t kv_element_bytes);
void check_gated_activation(View gate, View up, View out, DType out_dtype);
void check_copy(View from, View to);
void check_join_columns(View parts, std::span<const int64_t> begins, View out);
void check_take_columns(View x, int64_t begin, View out);
void check_draw_rows(View logits, View draws, View out);

/// The block table of a sequence; CHECKs that its entries for positions [first, last] are blocks of
/// the cache.
const int32_t* block_table(const RowLayout& rows, const KvLayer& cache, int64_t sequence,
                           int64_t first, int64_t last);
/// Element index of the vector of one head at one position of the sequence with this table.
int64_t kv_index(const KvLayer& cache, const int32_t* table, int64_t position, int64_t head);

}  // namespace fourfold::backend
