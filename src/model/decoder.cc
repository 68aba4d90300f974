#include "model/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/sizes.h"
#include "model/collectives.h"

namespace fourfold::model {

using tensor::DType;
using tensor::View;

Decoder::Decoder(ModelSpec spec, const backend::Ops& ops, RankGroups& groups, Weights weights,
                 ExchangeKind exchange)
    : spec_(std::move(spec)), ops_(ops), groups_(groups), weights_(std::move(weights)) {
  if (groups.mesh().has_experts()) {
    experts_ = std::make_unique<Experts>(spec_, ops_, groups_, weights_, exchange);
  }
  const std::vector<int> split = layer_split(spec_, groups.mesh().config().pp);
  const auto stage = static_cast<size_t>(groups.coordinates().stage);
  first_layer_ = split[stage];
  end_layer_ = split[stage + 1];
}

base::Result<std::unique_ptr<Decoder>> Decoder::create(const ModelSource& source,
                                                       const backend::Ops& ops, RankGroups& groups,
                                                       backend::Stream& stream,
                                                       int64_t max_positions,
                                                       ExchangeKind exchange) {
  const RankShare share = share_of(groups.mesh(), groups.rank());
  FF_ASSIGN(Weights weights, Weights::load(source, ops, stream, share, groups.progress()));
  std::unique_ptr<Decoder> decoder(
      new Decoder(source.spec, ops, groups, std::move(weights), exchange));
  FF_TRY(decoder->make_rope_tables(stream, max_positions));
  return decoder;
}

base::Status Decoder::make_rope_tables(backend::Stream& stream, int64_t max_positions) {
  const int64_t head_dim = spec_.layers.front().attention.head_dim;
  for (const RopeSpec& rope : spec_.ropes) {
    const std::vector<float> frequencies = rope_frequencies(rope, head_dim);
    const auto half = static_cast<int64_t>(frequencies.size());
    backend::RopeTable table;
    const int64_t bytes = max_positions * half * size_of(DType::kF32);
    FF_ASSIGN(const tensor::Buffer host_buffer, ops_.allocate_host(bytes));
    const View host{host_buffer.data(), DType::kF32, {max_positions, half}};
    for (View* view : {&table.cos, &table.sin}) {
      for (int64_t p = 0; p < max_positions; ++p) {
        for (int64_t i = 0; i < half; ++i) {
          // The angle is rounded to fp32 before cos and sin are taken, as the models were trained.
          const double angle = static_cast<float>(p) * frequencies[static_cast<size_t>(i)];
          host.f32()[p * half + i] =
              static_cast<float>(view == &table.cos ? std::cos(angle) : std::sin(angle));
        }
      }
      FF_ASSIGN(tensor::Buffer buffer, ops_.allocate(bytes));
      *view = {buffer.data(), DType::kF32, {max_positions, half}};
      ops_.copy_in(stream, host, *view);
      stream.synchronize();
      rope_buffers_.push_back(std::move(buffer));
    }
    ropes_.push_back(table);
  }
  return {};
}

std::span<float> Decoder::shown(View residual) const {
  return ops_.in_host_memory() ? residual.f32_span() : std::span<float>();
}

void Decoder::embed(backend::Stream& stream, StepMemory memory, View tokens, View residual) {
  groups_.enter(comm::Operation::kEmbed);
  const ParamShard shard = shard_of(spec_, spec_.param(ParamKind::kEmbedding),
                                    groups_.mesh().config().tp, groups_.coordinates().shard);
  ops_.embed(stream, weights_.get(ParamKind::kEmbedding), tokens, shard.rows.begin,
             spec_.embedding_scale, residual);
  Collectives(ops_, stream, memory.host)
      .all_reduce_sum(groups_.tensor(mesh::Role::kVocab), residual, comm::wire_of(stream.numerics));
}

void Decoder::run_layers(backend::Stream& stream, StepMemory memory, const backend::RowLayout& rows,
                         std::span<const backend::KvLayer> cache, View residual, const Tap& tap,
                         std::span<const int64_t> replica_rows) {
  const int64_t alone = residual.rows();
  if (replica_rows.empty()) replica_rows = {&alone, 1};
  const StepScope scope(memory);
  Sum sum{residual};
  const View attended = memory.arena.allocate(DType::kF32, residual.shape);
  const View fed = memory.arena.allocate(DType::kF32, residual.shape);
  for (int layer = first_layer_; layer < end_layer_; ++layer) {
    if (residual.rows() > 0) {
      attention(stream, memory, rows, cache[static_cast<size_t>(layer - first_layer_)], layer,
                attended, sum);
    }
    feed_forward(stream, memory, layer, replica_rows, fed, sum);
    if (tap) {
      complete(stream, memory, sum);
      tap(layer, residual);
    }
  }
  complete(stream, memory, sum);
}

void Decoder::complete(backend::Stream& stream, StepMemory memory, Sum& sum) {
  if (!sum.output) return;
  if (sum.shards != nullptr) {
    Collectives(ops_, stream, memory.host)
        .all_reduce_sum(*sum.shards, *sum.output, comm::wire_of(stream.numerics));
  }
  ops_.add(stream, sum.residual, *sum.output);
  sum.output.reset();
}

void Decoder::norm(backend::Stream& stream, StepMemory memory, Sum& sum, ParamKind gain, int layer,
                   View x) {
  const backend::Weight& weight = weights_.get(gain, layer);
  if (!sum.output) return ops_.rms_norm(stream, sum.residual, weight, spec_.norm_eps, x);
  if (sum.shards != nullptr) {
    Collectives(ops_, stream, memory.host)
        .all_reduce_add_norm(*sum.shards, *sum.output, comm::wire_of(stream.numerics), sum.residual,
                             weight, spec_.norm_eps, x);
  } else {
    ops_.add_norm(stream, sum.residual, *sum.output, weight, spec_.norm_eps, x);
  }
  sum.output.reset();
}

void Decoder::attention(backend::Stream& stream, StepMemory memory, const backend::RowLayout& rows,
                        const backend::KvLayer& cache, int layer, View out, Sum& sum) {
  groups_.enter(comm::Operation::kAttention, layer, shown(sum.residual));
  const StepScope scope(memory);
  tensor::Arena& arena = memory.arena;
  const AttentionSpec& spec = spec_.layers[static_cast<size_t>(layer)].attention;
  const int tp = groups_.mesh().config().tp;
  const int shard = groups_.coordinates().shard;
  const int64_t m = out.rows();
  const int64_t heads = head_range(spec, tp, shard).size();
  const int64_t kv_heads = kv_head_range(spec, tp, shard).size();
  const int64_t d = spec.head_dim;

  const View x = arena.allocate(ops_.activation_dtype(), {m, spec_.hidden});
  norm(stream, memory, sum, ParamKind::kAttentionNorm, layer, x);
  const View q = arena.allocate(DType::kF32, {m, heads * d});
  const View k = arena.allocate(DType::kF32, {m, kv_heads * d});
  const View v = arena.allocate(DType::kF32, {m, kv_heads * d});
  ops_.matmul(stream, arena, x,
              {{weights_.get(ParamKind::kQuery, layer), q},
               {weights_.get(ParamKind::kKey, layer), k},
               {weights_.get(ParamKind::kValue, layer), v}});
  if (spec.bias) {
    ops_.add_bias(stream, q, weights_.get(ParamKind::kQueryBias, layer));
    ops_.add_bias(stream, k, weights_.get(ParamKind::kKeyBias, layer));
    ops_.add_bias(stream, v, weights_.get(ParamKind::kValueBias, layer));
  }
  if (spec.wide_qk_norm) {
    wide_norm(stream, memory, ParamKind::kQueryNorm, layer, head_range, q);
    wide_norm(stream, memory, ParamKind::kKeyNorm, layer, kv_head_range, k);
  }

  const View q_heads = q.reshape({m, heads, d});
  const View k_heads = k.reshape({m, kv_heads, d});
  const auto head_gain = [&](ParamKind kind) {
    return spec.qk_norm ? &weights_.get(kind, layer) : nullptr;
  };
  ops_.rope_write(stream, q_heads, k_heads, v.reshape({m, kv_heads, d}),
                  {head_gain(ParamKind::kQueryNorm), head_gain(ParamKind::kKeyNorm)},
                  spec_.norm_eps, ropes_[static_cast<size_t>(spec.rope)], rows, cache);

  const View attended = arena.allocate(ops_.activation_dtype(), {m, heads * d});
  ops_.attention(stream, arena, q_heads, rows, cache, {.scale = spec.scale, .window = spec.window},
                 attended);
  ops_.matmul(stream, arena, attended, {{weights_.get(ParamKind::kOutput, layer), out}});
  add_output(stream, memory, ParamKind::kPostAttentionNorm, layer, out,
             &groups_.tensor(mesh::Role::kAttention), sum);
}

void Decoder::wide_norm(backend::Stream& stream, StepMemory memory, ParamKind gain, int layer,
                        HeadRange* range_of, View x) {
  const AttentionSpec& spec = spec_.layers[static_cast<size_t>(layer)].attention;
  const backend::Weight& whole_gain = weights_.get(gain, layer);
  comm::Communicator& shards = groups_.tensor(mesh::Role::kAttention);
  const int tp = shards.size();
  if (tp == 1) return ops_.rms_norm(stream, x, whole_gain, spec_.norm_eps, x);

  // Every shard norms whole rows: sums of squares that are put together from the shards' own would
  // round in another way for each tp.
  const StepScope scope(memory);
  const int64_t m = x.rows();
  const View gathered = memory.arena.allocate(DType::kF32, {tp, m, x.shape[1]});
  const View whole = memory.arena.allocate(DType::kF32, {m, whole_gain.columns()});
  Collectives(ops_, stream, memory.host).all_gather(shards, x, gathered);
  std::vector<int64_t> begins;
  for (int s = 0; s < tp; ++s) begins.push_back(range_of(spec, tp, s).begin * spec.head_dim);
  ops_.join_columns(stream, gathered, begins, whole);
  ops_.rms_norm(stream, whole, whole_gain, spec_.norm_eps, whole);
  ops_.take_columns(stream, whole, begins[static_cast<size_t>(shards.rank())], x);
}

void Decoder::feed_forward(backend::Stream& stream, StepMemory memory, int layer,
                           std::span<const int64_t> replica_rows, View out, Sum& sum) {
  const LayerSpec& spec = spec_.layers[static_cast<size_t>(layer)];
  const int64_t m = out.rows();
  const bool has_experts = spec.experts.count > 0;
  CHECK(has_experts || !spec.mlp.gated, "layer {}: an MLP alone is gated", layer);
  if (m == 0 && !has_experts) return;  // with experts the other replicas wait for this one
  groups_.enter(comm::Operation::kMlp, layer, shown(sum.residual));
  const StepScope scope(memory);
  tensor::Arena& arena = memory.arena;
  const View x = arena.allocate(ops_.activation_dtype(), {m, spec_.hidden});
  norm(stream, memory, sum, ParamKind::kMlpNorm, layer, x);
  comm::Communicator& shards = groups_.tensor(mesh::Role::kMlp);
  if (has_experts) experts_->run(stream, memory, layer, x, replica_rows, out);
  if (spec.mlp.intermediate > 0 && m > 0) {
    const View fed = has_experts ? arena.allocate(DType::kF32, {m, spec_.hidden}) : out;
    mlp(stream, memory, layer, x, fed);
    if (has_experts) {
      Collectives(ops_, stream, memory.host)
          .all_reduce_sum(shards, fed, comm::wire_of(stream.numerics));
      if (spec.mlp.gated) {
        const View row_gate = arena.allocate(DType::kF32, {m, 1});
        ops_.matmul(stream, arena, x, {{weights_.get(ParamKind::kSharedGate, layer), row_gate}});
        ops_.gate_rows(stream, fed, row_gate);
      }
      ops_.add(stream, out, fed);
    }
  }
  add_output(stream, memory, ParamKind::kPostMlpNorm, layer, out, has_experts ? nullptr : &shards,
             sum);
}

void Decoder::mlp(backend::Stream& stream, StepMemory memory, int layer, View x, View out) {
  const MlpSpec& spec = spec_.layers[static_cast<size_t>(layer)].mlp;
  const StepScope scope(memory);
  tensor::Arena& arena = memory.arena;
  const int64_t m = x.rows();
  const backend::Weight& gate_weight = weights_.get(ParamKind::kGate, layer);
  const int64_t width = gate_weight.rows();
  const View hidden = arena.allocate(ops_.activation_dtype(), {m, width});
  ops_.gated_matmul(stream, arena, x, gate_weight, weights_.get(ParamKind::kUp, layer),
                    spec.activation, hidden);
  ops_.matmul(stream, arena, hidden, {{weights_.get(ParamKind::kDown, layer), out}});
}

void Decoder::add_output(backend::Stream& stream, StepMemory memory, ParamKind post_norm, int layer,
                         View output, comm::Communicator* shards, Sum& sum) {
  if (shards != nullptr && shards->size() == 1) shards = nullptr;
  if (const backend::Weight* gain = weights_.find(post_norm, layer)) {
    if (shards != nullptr) {
      Collectives(ops_, stream, memory.host)
          .all_reduce_sum(*shards, output, comm::wire_of(stream.numerics));
      shards = nullptr;
    }
    ops_.rms_norm(stream, output, *gain, spec_.norm_eps, output);
  }
  sum.output = output;
  sum.shards = shards;
}

View Decoder::logits(backend::Stream& stream, StepMemory memory, View residual, View indices) {
  groups_.enter(comm::Operation::kHead, -1, shown(residual));
  tensor::Arena& arena = memory.arena;
  const int64_t r = indices.shape[0];
  const int tp = groups_.mesh().config().tp;
  const int64_t shard_rows = vocab_shard_rows(spec_, tp);
  const View picked = arena.allocate(DType::kF32, {r, spec_.hidden});
  ops_.gather_rows(stream, residual, indices, picked);
  const View x = arena.allocate(ops_.activation_dtype(), {r, spec_.hidden});
  ops_.rms_norm(stream, picked, weights_.get(ParamKind::kFinalNorm), spec_.norm_eps, x);

  const backend::Weight& head =
      weights_.get(spec_.tied_embeddings ? ParamKind::kEmbedding : ParamKind::kHead);
  const View local = arena.allocate(DType::kF32, {r, head.rows()});
  ops_.matmul(stream, arena, x, {{head, local}});
  if (tp == 1) return local;

  // Shards may hold different numbers of rows; on the wire each sends the same.
  const View padded = arena.allocate(DType::kF32, {r, shard_rows});
  ops_.take_columns(stream, local, 0, padded);
  const View gathered = arena.allocate(DType::kF32, {tp, r, shard_rows});
  Collectives(ops_, stream, memory.host)
      .all_gather(groups_.tensor(mesh::Role::kVocab), padded, gathered);
  const View out = arena.allocate(DType::kF32, {r, spec_.vocab});
  std::vector<int64_t> begins;
  for (int s = 0; s < tp; ++s) begins.push_back(s * shard_rows);
  ops_.join_columns(stream, gathered, begins, out);
  return out;
}

int64_t Decoder::table_bytes(const ModelSpec& spec, int64_t positions) {
  // cos and sin of half a head each
  return std::ssize(spec.ropes) * positions * spec.layers.front().attention.head_dim *
         size_of(DType::kF32);
}

int64_t Decoder::arena_bytes(const ModelSpec& spec, const backend::Ops& ops, const mesh::Mesh& mesh,
                             ExchangeKind exchange, int threads, int64_t rows, int64_t sampled) {
  constexpr int64_t kF32 = size_of(DType::kF32);
  const int tp = mesh.config().tp;
  int64_t widest = 0;  // f32 values of one row in the widest layer, but for its experts
  backend::Ops::Limits limits{.rows = std::max(rows, sampled), .columns = spec.hidden};
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& a = layer.attention;
    const int64_t heads = a.heads / tp;
    const int64_t kv_heads = kv_head_range(a, tp, 0).size();
    const int64_t width = base::ceil_div(layer.mlp.intermediate, tp) + kGranule;
    const int64_t wide_norm = a.wide_qk_norm ? 2 * a.heads * a.head_dim : 0;
    widest = std::max({widest, (2 * heads + 2 * kv_heads) * a.head_dim + wide_norm, 3 * width});
    limits.columns = std::max({limits.columns, heads * a.head_dim, width});
    limits.heads = std::max(limits.heads, heads);
    limits.head_dim = std::max(limits.head_dim, a.head_dim);
  }
  int64_t scratch = ops.scratch_bytes(threads, limits);
  // Normed input and the outputs of both parts of a layer; the head's copies of the logits.
  int64_t layers = rows * (3 * spec.hidden + widest) * kF32;
  if (mesh.has_experts()) {
    const Experts::Plan plan = Experts::plan(spec, ops, mesh, exchange, rows);
    // Normed input and the sums of experts; beside these, experts or shared experts work.
    layers = std::max(layers + rows * spec.hidden * kF32,
                      rows * 3 * spec.hidden * kF32 + plan.arena_bytes);
    scratch = std::max(scratch, ops.scratch_bytes(threads, plan.limits));
  }
  const int64_t head =
      sampled * (2 * spec.hidden + (3 + tp) * vocab_shard_rows(spec, tp) + spec.vocab) * kF32;
  constexpr int64_t kAlignment = int64_t{64} * 64;  // of the views that live at once
  return rows * spec.hidden * kF32 + std::max(layers, head) + scratch + kAlignment;
}

int64_t Decoder::host_arena_bytes(const ModelSpec& spec, const backend::Ops& ops,
                                  const mesh::Mesh& mesh, bool on_devices, ExchangeKind exchange,
                                  int64_t rows, int64_t sampled) {
  if (ops.in_host_memory()) return 0;
  constexpr int64_t kF32 = size_of(DType::kF32);
  const int tp = mesh.config().tp;
  // What goes through it at once: a collective's data and its result, rows of logits that are
  // sampled on the host, or the experts' exchange.
  int64_t bytes = std::min<int64_t>(sampled, kHostLogitRows) * spec.vocab * kF32;
  if (mesh.world_size() > 1 && !on_devices) {
    int64_t widest = 2 * spec.hidden;
    for (const LayerSpec& layer : spec.layers) {
      if (layer.attention.wide_qk_norm) {
        widest = std::max(widest, 2 * (1 + tp) * layer.attention.heads * layer.attention.head_dim);
      }
    }
    bytes = std::max(bytes, rows * widest * kF32);
  }
  if (tp > 1 && !on_devices) {
    bytes = std::max(bytes, sampled * ((1 + tp) * vocab_shard_rows(spec, tp) + spec.vocab) * kF32);
  }
  if (mesh.has_experts()) {
    bytes = std::max(bytes, Experts::plan(spec, ops, mesh, exchange, rows).host_arena_bytes);
  }
  constexpr int64_t kAlignment = int64_t{64} * 32;  // of the views that live at once
  return bytes + kAlignment;
}

}  // namespace fourfold::model
