#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/ops.h"
#include "base/result.h"
#include "model/experts.h"
#include "model/groups.h"
#include "model/source.h"
#include "model/spec.h"
#include "model/step_memory.h"
#include "model/weights.h"

namespace fourfold::model {

/// One rank's part of a decoder-only transformer: a range of layers, cut over the tensor group, and
/// the embedding or the head where the stage has them. One class for every family: what differs is
/// data in the ModelSpec.
class Decoder {
 public:
  /// Loads with the threads of `stream`. `max_positions` rows of rotary tables are made. The
  /// source's spec is copied. `exchange`: of a model with experts.
  static base::Result<std::unique_ptr<Decoder>> create(const ModelSource& source,
                                                       const backend::Ops& ops, RankGroups& groups,
                                                       backend::Stream& stream,
                                                       int64_t max_positions,
                                                       ExchangeKind exchange = ExchangeKind::kAuto);

  /// Called after the embedding (layer -1) and after each layer with the residual, f32 [M, H].
  using Tap = std::function<void(int32_t layer, tensor::View residual)>;

  /// tokens i32 [M] -> residual f32 [M, H].
  void embed(backend::Stream& stream, StepMemory memory, tensor::View tokens,
             tensor::View residual);

  /// Runs this stage's layers over the residual in place. `cache` has one entry per layer of the
  /// stage. `replica_rows`: rows of each replica of the lockstep group in this step, of which this
  /// one may have none; empty: there is but this one.
  void run_layers(backend::Stream& stream, StepMemory memory, const backend::RowLayout& rows,
                  std::span<const backend::KvLayer> cache, tensor::View residual, const Tap& tap,
                  std::span<const int64_t> replica_rows = {});

  /// The logits of the rows listed: residual f32 [M, H], indices i32 [R] -> f32 [R, vocab] on every
  /// shard, in the backend's memory, of `memory`.
  tensor::View logits(backend::Stream& stream, StepMemory memory, tensor::View residual,
                      tensor::View indices);

  const ModelSpec& spec() const { return spec_; }
  const Weights& weights() const { return weights_; }
  /// Of this rank's experts so far; empty in a dense model.
  ExpertStats expert_stats() const { return experts_ ? experts_->stats() : ExpertStats{}; }
  int first_layer() const { return first_layer_; }
  int end_layer() const { return end_layer_; }

  /// Arena that a step of `rows` rows, `sampled` of them sampled, needs on any rank of the scheme,
  /// whose operators run on `threads` threads.
  static int64_t arena_bytes(const ModelSpec& spec, const backend::Ops& ops, const mesh::Mesh& mesh,
                             ExchangeKind exchange, int threads, int64_t rows, int64_t sampled);

  /// Rows of logits that host_arena_bytes has room for at once.
  static constexpr int kHostLogitRows = 16;
  /// Of `memory.host`, where that is another than the backend's. `on_devices`: collectives do
  /// without the host (RankGroups::on_devices), but for those of experts.
  static int64_t host_arena_bytes(const ModelSpec& spec, const backend::Ops& ops,
                                  const mesh::Mesh& mesh, bool on_devices, ExchangeKind exchange,
                                  int64_t rows, int64_t sampled);

  /// Memory of the rotary tables for `positions`.
  static int64_t table_bytes(const ModelSpec& spec, int64_t positions);

 private:
  Decoder(ModelSpec spec, const backend::Ops& ops, RankGroups& groups, Weights weights,
          ExchangeKind exchange);
  base::Status make_rope_tables(backend::Stream& stream, int64_t max_positions);
  /// The residual, and the output of the last part of a layer that has not been added to it yet: it
  /// is when the next part norms it.
  struct Sum {
    tensor::View residual;                    ///< f32 [M, H]
    std::optional<tensor::View> output = {};  ///< f32 [M, H]
    /// Whose parts of the output have to be added first; null: it is whole.
    comm::Communicator* shards = nullptr;
  };
  /// Adds what has not been added.
  void complete(backend::Stream& stream, StepMemory memory, Sum& sum);
  /// The residual for whoever watches; nothing where the host cannot read it.
  std::span<float> shown(tensor::View residual) const;
  void attention(backend::Stream& stream, StepMemory memory, const backend::RowLayout& rows,
                 const backend::KvLayer& cache, int layer, tensor::View out, Sum& sum);
  using HeadRange = mesh::Range(const AttentionSpec& attention, int tp, int shard);
  /// RMS norm of a row's heads of all shards together; x f32 [M, own heads * head_dim] in place.
  void wide_norm(backend::Stream& stream, StepMemory memory, ParamKind gain, int layer,
                 HeadRange* range_of, tensor::View x);
  /// What comes after attention: experts, an MLP beside them, or an MLP alone.
  void feed_forward(backend::Stream& stream, StepMemory memory, int layer,
                    std::span<const int64_t> replica_rows, tensor::View out, Sum& sum);
  /// x activation dtype [M, H], M > 0; out f32 [M, H], this shard's part.
  void mlp(backend::Stream& stream, StepMemory memory, int layer, tensor::View x, tensor::View out);
  /// x = norm(residual), in the activation dtype.
  void norm(backend::Stream& stream, StepMemory memory, Sum& sum, ParamKind gain, int layer,
            tensor::View x);
  /// Norms the output of a part of a layer, where the model does that, and leaves it to be added.
  /// `shards`: whose parts of it are to be added first; null: it is whole.
  void add_output(backend::Stream& stream, StepMemory memory, ParamKind post_norm, int layer,
                  tensor::View output, comm::Communicator* shards, Sum& sum);

  ModelSpec spec_;
  const backend::Ops& ops_;
  RankGroups& groups_;
  Weights weights_;
  int first_layer_ = 0;
  int end_layer_ = 0;
  std::unique_ptr<Experts> experts_;  ///< null in a dense model
  std::vector<tensor::Buffer> rope_buffers_;
  std::vector<backend::RopeTable> ropes_;
};

}  // namespace fourfold::model
