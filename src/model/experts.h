#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/ops.h"
#include "model/exchange.h"
#include "model/groups.h"
#include "model/spec.h"
#include "model/step_memory.h"
#include "model/weights.h"

namespace fourfold::model {

/// What a rank's experts did in one layer.
struct LayerExpertStats {
  int32_t layer = 0;
  int64_t steps = 0;     ///< in which a row came
  int64_t distinct = 0;  ///< experts with rows, summed over the steps
  /// Rows of each expert of the model; 0 where another rank holds it. The etp shards of an expert
  /// count the same rows, each for its part of the width.
  std::vector<int64_t> rows;

  bool operator==(const LayerExpertStats&) const = default;
};

struct ExpertStats {
  std::vector<LayerExpertStats> layers;  ///< of the stage, those with experts
  int64_t dispatched_bytes = 0;          ///< given to other ranks: rows and their choices
  int64_t combined_bytes = 0;            ///< given to other ranks: results

  bool operator==(const ExpertStats&) const = default;
};

/// The experts of one rank's layers: each row of the replica is routed, goes to the ranks of its
/// expert block that hold its experts, and its results are added by the rank that owns it
/// (docs/experts.md).
class Experts {
 public:
  /// The references outlive this object; `spec` has experts.
  Experts(const ModelSpec& spec, const backend::Ops& ops, RankGroups& groups,
          const Weights& weights, ExchangeKind exchange);

  /// out = weighted sum of the experts of every row of the replica. x activation dtype [M, H]; out
  /// f32 [M, H]. `replica_rows`: M of each replica of the lockstep group. Collective over the
  /// expert block and the tensor group; M may be 0.
  void run(backend::Stream& stream, StepMemory memory, int32_t layer, tensor::View x,
           std::span<const int64_t> replica_rows, tensor::View out);

  ExpertStats stats() const;

  /// Arena that run() takes on any rank of `mesh` for `rows` rows of each replica, but for the
  /// operators' own, and the largest operators in it.
  struct Plan {
    int64_t arena_bytes = 0;
    int64_t host_arena_bytes = 0;  ///< of StepMemory::host, where that is another arena
    backend::Ops::Limits limits;
  };
  static Plan plan(const ModelSpec& spec, const backend::Ops& ops, const mesh::Mesh& mesh,
                   ExchangeKind exchange, int64_t rows);

 private:
  /// The pairs of an arrived row and one of its slots whose expert is here.
  struct Pairs {
    std::vector<int32_t> ends;  ///< of each local expert, by whom they are sorted
    tensor::View rows;          ///< i32 [R]: the arrived row of the pair in each position
    tensor::View positions;     ///< i32 [R]: of each pair (Exchange::combine)
  };
  struct Results {
    tensor::View rows;                   ///< activation dtype [R, H], by expert
    std::span<const int32_t> positions;  ///< of each pair (Exchange::combine) in them
  };

  void run_piece(backend::Stream& stream, StepMemory memory, int32_t layer, tensor::View x,
                 std::span<const int64_t> replica_rows, tensor::View out);
  /// The choices of rows x: experts i32 [h, top_k], weights f32 [h, top_k].
  void route(backend::Stream& stream, StepMemory memory, int32_t layer, tensor::View x,
             tensor::View experts, tensor::View weights);
  Pairs sort_pairs(tensor::Arena& host, int32_t layer, tensor::View experts);
  Results compute(backend::Stream& stream, StepMemory memory, int32_t layer,
                  const Arrivals& arrivals);
  bool sums_over_block(const backend::Stream& stream) const;
  void keep_own_results(tensor::View experts, const Results& results, tensor::View slots) const;
  void share_own_rows(backend::Stream& stream, StepMemory memory, const RowOwners& owners,
                      tensor::View home, const mesh::Range& home_rows, tensor::View out);
  LayerExpertStats& stats_of(int32_t layer);

  const ModelSpec& spec_;
  const backend::Ops& ops_;
  RankGroups& groups_;
  const Weights& weights_;
  const ExchangeKind kind_;
  const BlockPlace place_;
  std::vector<int32_t> local_;  ///< of each expert its index among those here; -1: elsewhere
  std::unique_ptr<Exchange> gather_;
  std::unique_ptr<Exchange> all_to_all_;
  std::vector<LayerExpertStats> stats_;
};

}  // namespace fourfold::model
