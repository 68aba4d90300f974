#pragma once

#include <map>
#include <memory>
#include <string>

#include "backend/ops.h"
#include "base/clock.h"

namespace fourfold::measure {

/// What the calls of one operator took since the last reset.
struct OperatorTime {
  int64_t calls = 0;
  double seconds = 0;
  double flops = 0;
  double bytes = 0;  ///< weights and cache that had to be read, or else activations
};

/// Passes every operator on to another backend and times it; used by one thread.
class TimedOps final : public backend::Ops {
 public:
  using Buffer = backend::Buffer;
  using DType = backend::DType;
  using Stream = backend::Stream;
  using Arena = backend::Arena;
  using View = backend::View;
  using Weight = backend::Weight;

  explicit TimedOps(const backend::Ops& ops) : ops_(ops) {}

  /// What matmuls with this weight are called.
  void label(const Weight& weight, std::string label) { labels_[&weight] = std::move(label); }
  const std::map<std::string, OperatorTime>& times() const { return times_; }
  void reset() { times_.clear(); }

  std::string_view name() const override { return ops_.name(); }
  DType activation_dtype() const override { return ops_.activation_dtype(); }
  DType kv_dtype() const override { return ops_.kv_dtype(); }
  DType weight_dtype() const override { return ops_.weight_dtype(); }
  base::Result<Buffer> allocate(int64_t bytes) const override { return ops_.allocate(bytes); }
  bool in_host_memory() const override { return ops_.in_host_memory(); }
  base::Result<Buffer> allocate_host(int64_t bytes) const override {
    return ops_.allocate_host(bytes);
  }
  std::string gpu() const override { return ops_.gpu(); }
  int gpus() const override { return ops_.gpus(); }
  std::optional<int64_t> free_bytes() const override { return ops_.free_bytes(); }
  void copy_in(Stream& stream, View from, View to) const override {
    ops_.copy_in(stream, from, to);
  }
  void copy_out(Stream& stream, View from, View to) const override {
    ops_.copy_out(stream, from, to);
  }
  std::unique_ptr<Stream> make_stream(int threads, std::span<const int> cpus) const override {
    return ops_.make_stream(threads, cpus);
  }
  int64_t scratch_bytes(int threads, const Limits& limits) const override {
    return ops_.scratch_bytes(threads, limits);
  }
  int64_t matrix_bytes(const backend::MatrixShape& shape) const override {
    return ops_.matrix_bytes(shape);
  }
  base::Result<backend::WeightPtr> load_matrix(Stream& stream, const backend::MatrixShape& shape,
                                               const backend::RowReader& reader) const override {
    return ops_.load_matrix(stream, shape, reader);
  }
  base::Result<std::vector<backend::WeightPtr>> load_matrices(
      Stream& stream, std::span<const backend::MatrixSource> sources) const override {
    return ops_.load_matrices(stream, sources);
  }
  base::Result<backend::Peaks> measure_peaks(Stream& stream, double seconds,
                                             int sharers) const override {
    return ops_.measure_peaks(stream, seconds, sharers);
  }
  base::Result<backend::WeightPtr> load_vector(std::span<const float> values) const override {
    return ops_.load_vector(values);
  }

  void embed(Stream& stream, const Weight& table, View tokens, int64_t first_token, float scale,
             View out) const override;
  void rms_norm(Stream& stream, View x, const Weight& gain, float eps, View out) const override;
  void matmul(Stream& stream, Arena& arena, View x,
              std::initializer_list<MatmulTarget> targets) const override;
  void grouped_matmul(Stream& stream, Arena& arena, View x, std::span<const int32_t> ends,
                      std::initializer_list<GroupedTarget> targets) const override;
  void route(Stream& stream, View logits, const Weight* bias, const backend::Routing& routing,
             View experts, View weights) const override;
  void combine_slots(Stream& stream, View y, View weights, View out) const override;
  void to_activation(Stream& stream, View x, View out) const override;
  void add_bias(Stream& stream, View x, const Weight& bias) const override;
  void gate_rows(Stream& stream, View x, View gate) const override;
  void add(Stream& stream, View x, View y) const override;
  // What a backend in host memory composes is timed by its parts.
  void add_norm(Stream& stream, View x, View y, const Weight& gain, float eps,
                View out) const override;
  void rope_write(Stream& stream, View queries, View keys, View values, const HeadGains& gains,
                  float eps, const backend::RopeTable& rope, const backend::RowLayout& rows,
                  const backend::KvLayer& cache) const override;
  void gated_matmul(Stream& stream, Arena& arena, View x, const Weight& gate, const Weight& up,
                    backend::Activation activation, View out) const override;
  void norm_rope(Stream& stream, View x, const Weight* gain, float eps, View positions,
                 const backend::RopeTable& rope) const override;
  void kv_write(Stream& stream, View keys, View values, const backend::RowLayout& rows,
                const backend::KvLayer& cache) const override;
  void attention(Stream& stream, Arena& arena, View queries, const backend::RowLayout& rows,
                 const backend::KvLayer& cache, const AttentionParams& params,
                 View out) const override;
  void gated_activation(Stream& stream, backend::Activation activation, View gate, View up,
                        View out) const override;
  void gather_rows(Stream& stream, View x, View indices, View out) const override;
  void join_columns(Stream& stream, View parts, std::span<const int64_t> begins,
                    View out) const override {
    ops_.join_columns(stream, parts, begins, out);
  }
  void take_columns(Stream& stream, View x, int64_t begin, View out) const override {
    ops_.take_columns(stream, x, begin, out);
  }
  void resolve_tokens(Stream& stream, View tokens, View ring) const override {
    ops_.resolve_tokens(stream, tokens, ring);
  }
  void draw_rows(Stream& stream, View logits, View draws, View out) const override {
    ops_.draw_rows(stream, logits, draws, out);
  }
  void hash_rows(Stream& stream, View x, std::span<uint64_t> out) const override {
    ops_.hash_rows(stream, x, out);
  }

 private:
  std::string label_of(const Weight& weight) const;
  /// Times `call`; `activation_bytes` count where the stream counted none for it.
  template <typename Call>
  void timed(const std::string& name, Stream& stream, int64_t activation_bytes,
             const Call& call) const;

  const backend::Ops& ops_;
  std::map<const Weight*, std::string> labels_;
  mutable std::map<std::string, OperatorTime> times_;  // operators are const
  base::SteadyClock clock_;
};

}  // namespace fourfold::measure
