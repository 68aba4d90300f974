#pragma once

#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backend/ops.h"

namespace fourfold::backend::testing {

/// A backend of another memory as tests of operators see every backend: its operators take views of
/// host memory. Each call copies its arguments there and its results back.
class StagedOps final : public Ops {
 public:
  explicit StagedOps(std::unique_ptr<Ops> device) : device_(std::move(device)) {}

  std::string_view name() const override { return device_->name(); }
  DType activation_dtype() const override { return device_->activation_dtype(); }
  DType kv_dtype() const override { return device_->kv_dtype(); }
  DType weight_dtype() const override { return device_->weight_dtype(); }
  /// Of the device: for arenas.
  base::Result<Buffer> allocate(int64_t bytes) const override { return device_->allocate(bytes); }
  bool in_host_memory() const override { return true; }
  base::Result<Buffer> allocate_host(int64_t bytes) const override {
    return device_->allocate_host(bytes);
  }
  std::optional<int64_t> free_bytes() const override { return device_->free_bytes(); }
  void copy_in(Stream& stream, View from, View to) const override {
    Call call(*this, stream);
    device_->copy_in(stream, from, call.out(to));
  }
  void copy_out(Stream& stream, View from, View to) const override {
    Call call(*this, stream);
    device_->copy_out(stream, call.in(from), to);
    stream.synchronize();
  }
  std::unique_ptr<Stream> make_stream(int threads, std::span<const int> cpus) const override {
    return device_->make_stream(threads, cpus);
  }
  int64_t scratch_bytes(int threads, const Limits& limits) const override {
    return device_->scratch_bytes(threads, limits);
  }
  int64_t matrix_bytes(const MatrixShape& shape) const override {
    return device_->matrix_bytes(shape);
  }
  base::Result<std::vector<WeightPtr>> load_matrices(
      Stream& stream, std::span<const MatrixSource> sources) const override {
    return device_->load_matrices(stream, sources);
  }
  base::Result<WeightPtr> load_matrix(Stream& stream, const MatrixShape& shape,
                                      const RowReader& reader) const override {
    return device_->load_matrix(stream, shape, reader);
  }
  base::Result<WeightPtr> load_vector(std::span<const float> values) const override {
    return device_->load_vector(values);
  }
  base::Result<Peaks> measure_peaks(Stream& stream, double seconds, int sharers) const override {
    return device_->measure_peaks(stream, seconds, sharers);
  }

  void embed(Stream& stream, const Weight& table, View tokens, int64_t first_token, float scale,
             View out) const override {
    Call call(*this, stream);
    device_->embed(stream, table, call.in(tokens), first_token, scale, call.out(out));
  }
  void rms_norm(Stream& stream, View x, const Weight& gain, float eps, View out) const override {
    Call call(*this, stream);
    device_->rms_norm(stream, call.in(x), gain, eps, call.out(out));
  }
  void matmul(Stream& stream, Arena& arena, View x,
              std::initializer_list<MatmulTarget> targets) const override {
    Call call(*this, stream);
    const View from = call.in(x);
    const auto* t = targets.begin();
    const auto target = [&](size_t i) -> MatmulTarget { return {t[i].weight, call.out(t[i].out)}; };
    CHECK(targets.size() <= 3, "tests have up to three targets");
    if (targets.size() == 1) device_->matmul(stream, arena, from, {target(0)});
    if (targets.size() == 2) device_->matmul(stream, arena, from, {target(0), target(1)});
    if (targets.size() == 3) {
      device_->matmul(stream, arena, from, {target(0), target(1), target(2)});
    }
  }
  void grouped_matmul(Stream& stream, Arena& arena, View x, std::span<const int32_t> ends,
                      std::initializer_list<GroupedTarget> targets) const override {
    Call call(*this, stream);
    const View from = call.in(x);
    const auto* t = targets.begin();
    const auto target = [&](size_t i) -> GroupedTarget {
      return {t[i].weights, call.out(t[i].out)};
    };
    CHECK(targets.size() <= 2, "tests have up to two targets");
    if (targets.size() == 1) device_->grouped_matmul(stream, arena, from, ends, {target(0)});
    if (targets.size() == 2) {
      device_->grouped_matmul(stream, arena, from, ends, {target(0), target(1)});
    }
  }
  void route(Stream& stream, View logits, const Weight* bias, const Routing& routing, View experts,
             View weights) const override {
    Call call(*this, stream);
    device_->route(stream, call.in(logits), bias, routing, call.out(experts), call.out(weights));
  }
  void combine_slots(Stream& stream, View y, View weights, View out) const override {
    Call call(*this, stream);
    device_->combine_slots(stream, call.in(y), call.in(weights), call.out(out));
  }
  void to_activation(Stream& stream, View x, View out) const override {
    Call call(*this, stream);
    device_->to_activation(stream, call.in(x), call.out(out));
  }
  void add_bias(Stream& stream, View x, const Weight& bias) const override {
    Call call(*this, stream);
    device_->add_bias(stream, call.out(x), bias);
  }
  void gate_rows(Stream& stream, View x, View gate) const override {
    Call call(*this, stream);
    device_->gate_rows(stream, call.out(x), call.in(gate));
  }
  void add(Stream& stream, View x, View y) const override {
    Call call(*this, stream);
    device_->add(stream, call.out(x), call.in(y));
  }
  void add_norm(Stream& stream, View x, View y, const Weight& gain, float eps,
                View out) const override {
    Call call(*this, stream);
    device_->add_norm(stream, call.out(x), call.in(y), gain, eps, call.out(out));
  }
  void rope_write(Stream& stream, View queries, View keys, View values, const HeadGains& gains,
                  float eps, const RopeTable& rope, const RowLayout& rows,
                  const KvLayer& cache) const override {
    Call call(*this, stream);
    device_->rope_write(stream, call.out(queries), call.out(keys), call.in(values), gains, eps,
                        {call.in(rope.cos), call.in(rope.sin)}, call.layout(rows),
                        call.cache(cache));
  }
  void gated_matmul(Stream& stream, Arena& arena, View x, const Weight& gate, const Weight& up,
                    Activation activation, View out) const override {
    Call call(*this, stream);
    device_->gated_matmul(stream, arena, call.in(x), gate, up, activation, call.out(out));
  }
  void norm_rope(Stream& stream, View x, const Weight* gain, float eps, View positions,
                 const RopeTable& rope) const override {
    Call call(*this, stream);
    device_->norm_rope(stream, call.out(x), gain, eps, call.in(positions),
                       {call.in(rope.cos), call.in(rope.sin)});
  }
  void kv_write(Stream& stream, View keys, View values, const RowLayout& rows,
                const KvLayer& cache) const override {
    Call call(*this, stream);
    device_->kv_write(stream, call.in(keys), call.in(values), call.layout(rows), call.cache(cache));
  }
  void attention(Stream& stream, Arena& arena, View queries, const RowLayout& rows,
                 const KvLayer& cache, const AttentionParams& params, View out) const override {
    Call call(*this, stream);
    device_->attention(stream, arena, call.in(queries), call.layout(rows), call.cache(cache),
                       params, call.out(out));
  }
  void gated_activation(Stream& stream, Activation activation, View gate, View up,
                        View out) const override {
    Call call(*this, stream);
    device_->gated_activation(stream, activation, call.in(gate), call.in(up), call.out(out));
  }
  void gather_rows(Stream& stream, View x, View indices, View out) const override {
    Call call(*this, stream);
    device_->gather_rows(stream, call.in(x), call.in(indices), call.out(out));
  }
  void join_columns(Stream& stream, View parts, std::span<const int64_t> begins,
                    View out) const override {
    Call call(*this, stream);
    device_->join_columns(stream, call.in(parts), begins, call.out(out));
  }
  void take_columns(Stream& stream, View x, int64_t begin, View out) const override {
    Call call(*this, stream);
    device_->take_columns(stream, call.in(x), begin, call.out(out));
  }
  void resolve_tokens(Stream& stream, View tokens, View ring) const override {
    Call call(*this, stream);
    device_->resolve_tokens(stream, call.out(tokens), call.in(ring));
  }
  void draw_rows(Stream& stream, View logits, View draws, View out) const override {
    Call call(*this, stream);
    device_->draw_rows(stream, call.in(logits), call.in(draws), call.out(out));
  }
  void hash_rows(Stream& stream, View x, std::span<uint64_t> out) const override {
    Call call(*this, stream);
    device_->hash_rows(stream, call.in(x), out);
  }

 private:
  /// The arguments of one call on the device; its end brings back the results.
  class Call {
   public:
    Call(const StagedOps& ops, Stream& stream) : ops_(*ops.device_), stream_(stream) {}
    ~Call() {
      for (const auto& [device, host] : results_) ops_.copy_out(stream_, device, host);
      stream_.synchronize();
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    View in(View host) {
      if (host.bytes() == 0) return host;
      buffers_.push_back(ops_.allocate(host.bytes()).value());
      const View device{buffers_.back().data(), host.dtype, host.shape};
      ops_.copy_in(stream_, host, device);
      return device;
    }
    /// Its values go there, too: it may be read, and parts of it may stay.
    View out(View host) {
      const View device = in(host);
      if (host.bytes() > 0) results_.emplace_back(device, host);
      return device;
    }
    RowLayout layout(const RowLayout& rows) {
      host_rows_ = rows;
      const RowTiles tiles =
          tiles_of({rows.sequences.i32(), static_cast<size_t>(rows.sequences.shape.elements())});
      entries_ = tiles.entries;
      return {.positions = in(rows.positions),
              .sequences = in(rows.sequences),
              .block_tables = in(rows.block_tables),
              .tiles = in({entries_.data(), DType::kI32, {std::ssize(entries_) / 2, 2}}),
              .single_tiles = tiles.single,
              .host = &host_rows_};
    }
    KvLayer cache(const KvLayer& layer) {
      KvLayer copy = layer;
      const tensor::Shape shape{layer.blocks, layer.kv_heads, layer.block_size, layer.head_dim};
      copy.keys = out({layer.keys, ops_.kv_dtype(), shape}).data;
      copy.values = out({layer.values, ops_.kv_dtype(), shape}).data;
      return copy;
    }

   private:
    const Ops& ops_;
    Stream& stream_;
    std::vector<Buffer> buffers_;
    std::vector<std::pair<View, View>> results_;
    std::vector<int32_t> entries_;
    RowLayout host_rows_;
  };

  std::unique_ptr<Ops> device_;
};

}  // namespace fourfold::backend::testing
