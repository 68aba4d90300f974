#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "backend/ops.h"

namespace fourfold::tests {

/// Forwards to real operators; tests override what they change.
class ForwardingOps : public backend::Ops {
 public:
  explicit ForwardingOps(std::shared_ptr<const backend::Ops> real) : real_(std::move(real)) {}

  std::string_view name() const override { return real_->name(); }
  tensor::DType activation_dtype() const override { return real_->activation_dtype(); }
  tensor::DType kv_dtype() const override { return real_->kv_dtype(); }
  tensor::DType weight_dtype() const override { return real_->weight_dtype(); }
  base::Result<tensor::Buffer> allocate(int64_t bytes) const override {
    return real_->allocate(bytes);
  }
  bool in_host_memory() const override { return real_->in_host_memory(); }
  base::Result<tensor::Buffer> allocate_host(int64_t bytes) const override {
    return real_->allocate_host(bytes);
  }
  std::optional<int64_t> free_bytes() const override { return real_->free_bytes(); }
  void copy_in(backend::Stream& s, tensor::View from, tensor::View to) const override {
    real_->copy_in(s, from, to);
  }
  void copy_out(backend::Stream& s, tensor::View from, tensor::View to) const override {
    real_->copy_out(s, from, to);
  }
  void join_columns(backend::Stream& s, tensor::View parts, std::span<const int64_t> begins,
                    tensor::View out) const override {
    real_->join_columns(s, parts, begins, out);
  }
  void take_columns(backend::Stream& s, tensor::View x, int64_t begin,
                    tensor::View out) const override {
    real_->take_columns(s, x, begin, out);
  }
  void resolve_tokens(backend::Stream& stream, tensor::View tokens,
                      tensor::View ring) const override {
    real_->resolve_tokens(stream, tokens, ring);
  }
  void draw_rows(backend::Stream& s, tensor::View logits, tensor::View draws,
                 tensor::View out) const override {
    real_->draw_rows(s, logits, draws, out);
  }
  std::unique_ptr<backend::Stream> make_stream(int threads,
                                               std::span<const int> cpus) const override {
    return real_->make_stream(threads, cpus);
  }
  int64_t scratch_bytes(int threads, const Limits& limits) const override {
    return real_->scratch_bytes(threads, limits);
  }
  int64_t matrix_bytes(const backend::MatrixShape& shape) const override {
    return real_->matrix_bytes(shape);
  }
  base::Result<backend::WeightPtr> load_matrix(backend::Stream& s,
                                               const backend::MatrixShape& shape,
                                               const backend::RowReader& reader) const override {
    return real_->load_matrix(s, shape, reader);
  }
  base::Result<backend::Peaks> measure_peaks(backend::Stream& s, double seconds,
                                             int sharers) const override {
    return real_->measure_peaks(s, seconds, sharers);
  }
  base::Result<backend::WeightPtr> load_vector(std::span<const float> values) const override {
    return real_->load_vector(values);
  }
  void embed(backend::Stream& s, const backend::Weight& table, tensor::View tokens, int64_t first,
             float scale, tensor::View out) const override {
    real_->embed(s, table, tokens, first, scale, out);
  }
  void rms_norm(backend::Stream& s, tensor::View x, const backend::Weight& gain, float eps,
                tensor::View out) const override {
    real_->rms_norm(s, x, gain, eps, out);
  }
  void matmul(backend::Stream& s, tensor::Arena& arena, tensor::View x,
              std::initializer_list<MatmulTarget> targets) const override {
    real_->matmul(s, arena, x, targets);
  }
  void grouped_matmul(backend::Stream& s, tensor::Arena& arena, tensor::View x,
                      std::span<const int32_t> ends,
                      std::initializer_list<GroupedTarget> targets) const override {
    real_->grouped_matmul(s, arena, x, ends, targets);
  }
  void route(backend::Stream& s, tensor::View logits, const backend::Weight* bias,
             const backend::Routing& routing, tensor::View experts,
             tensor::View weights) const override {
    real_->route(s, logits, bias, routing, experts, weights);
  }
  void combine_slots(backend::Stream& s, tensor::View y, tensor::View weights,
                     tensor::View out) const override {
    real_->combine_slots(s, y, weights, out);
  }
  void to_activation(backend::Stream& s, tensor::View x, tensor::View out) const override {
    real_->to_activation(s, x, out);
  }
  void add_bias(backend::Stream& s, tensor::View x, const backend::Weight& bias) const override {
    real_->add_bias(s, x, bias);
  }
  void gate_rows(backend::Stream& s, tensor::View x, tensor::View gate) const override {
    real_->gate_rows(s, x, gate);
  }
  void add(backend::Stream& s, tensor::View x, tensor::View y) const override {
    real_->add(s, x, y);
  }
  void norm_rope(backend::Stream& s, tensor::View x, const backend::Weight* gain, float eps,
                 tensor::View positions, const backend::RopeTable& rope) const override {
    real_->norm_rope(s, x, gain, eps, positions, rope);
  }
  void kv_write(backend::Stream& s, tensor::View keys, tensor::View values,
                const backend::RowLayout& rows, const backend::KvLayer& cache) const override {
    real_->kv_write(s, keys, values, rows, cache);
  }
  void attention(backend::Stream& s, tensor::Arena& arena, tensor::View queries,
                 const backend::RowLayout& rows, const backend::KvLayer& cache,
                 const AttentionParams& params, tensor::View out) const override {
    real_->attention(s, arena, queries, rows, cache, params, out);
  }
  void gated_activation(backend::Stream& s, backend::Activation activation, tensor::View gate,
                        tensor::View up, tensor::View out) const override {
    real_->gated_activation(s, activation, gate, up, out);
  }
  void gather_rows(backend::Stream& s, tensor::View x, tensor::View indices,
                   tensor::View out) const override {
    real_->gather_rows(s, x, indices, out);
  }
  void hash_rows(backend::Stream& s, tensor::View x, std::span<uint64_t> out) const override {
    real_->hash_rows(s, x, out);
  }

 protected:
  std::shared_ptr<const backend::Ops> real_;
};

}  // namespace fourfold::tests
