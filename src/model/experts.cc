#include "model/experts.h"

#include <algorithm>
#include <numeric>

#include "base/sizes.h"
#include "comm/wire.h"
#include "model/collectives.h"
#include "model/dummy_routing.h"
#include "model/exchange_bytes.h"

namespace fourfold::model {
namespace {

using tensor::DType;
using tensor::View;

/// Results of one exchange on one rank, at most; a step with more goes piece by piece. So the
/// memory for the case that all rows choose the same rank is bounded, while an expert's weights are
/// still read for many rows at once.
constexpr int64_t kPiecePairs = 4096;

/// Slots of a row that the experts of one shard may take, on the shard that holds the most.
int64_t pairs_per_row(const BlockPlace& place, int64_t top_k) {
  std::vector<int64_t> held(static_cast<size_t>(place.ep), 0);
  for (const int shard : place.shard_of) ++held[static_cast<size_t>(shard)];
  return std::min(top_k, *std::max_element(held.begin(), held.end()));
}

/// Rows of all replicas that go in one piece.
int64_t piece_rows(const BlockPlace& place, int64_t top_k) {
  return base::ceil_div(kPiecePairs, pairs_per_row(place, top_k));
}

const ExpertsSpec& experts_of(const ModelSpec& spec, int32_t layer) {
  return spec.layers[static_cast<size_t>(layer)].experts;
}

}  // namespace

Experts::Experts(const ModelSpec& spec, const backend::Ops& ops, RankGroups& groups,
                 const Weights& weights, ExchangeKind exchange)
    : spec_(spec),
      ops_(ops),
      groups_(groups),
      weights_(weights),
      kind_(exchange),
      place_(BlockPlace::of(groups.mesh(), groups.rank())),
      local_(place_.shard_of.size(), -1),
      gather_(make_gather_exchange(place_, groups.expert_block())),
      all_to_all_(make_all_to_all_exchange(place_, groups.expert_block())) {
  int32_t next = 0;
  for (const int64_t expert : groups.mesh().experts_of(place_.expert_shard())) {
    local_[static_cast<size_t>(expert)] = next++;
  }
}

void Experts::run(backend::Stream& stream, StepMemory memory, int32_t layer, View x,
                  std::span<const int64_t> replica_rows, View out) {
  const int64_t total = std::accumulate(replica_rows.begin(), replica_rows.end(), int64_t{0});
  const int64_t pieces = std::max<int64_t>(
      1, base::ceil_div(total, piece_rows(place_, experts_of(spec_, layer).routing.top_k)));
  std::vector<int64_t> rows(replica_rows.size());
  LayerExpertStats& stats = stats_of(layer);
  const std::vector<int64_t> before = stats.rows;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    for (size_t r = 0; r < rows.size(); ++r) {
      rows[r] = (piece + 1) * replica_rows[r] / pieces - piece * replica_rows[r] / pieces;
    }
    const int64_t begin = piece * x.rows() / pieces;
    const int64_t end = (piece + 1) * x.rows() / pieces;
    run_piece(stream, memory, layer, x.slice_rows(begin, end), rows, out.slice_rows(begin, end));
  }
  int64_t distinct = 0;
  for (size_t e = 0; e < before.size(); ++e) distinct += stats.rows[e] > before[e] ? 1 : 0;
  stats.steps += distinct > 0 ? 1 : 0;
  stats.distinct += distinct;
}

void Experts::run_piece(backend::Stream& stream, StepMemory memory, int32_t layer, View x,
                        std::span<const int64_t> replica_rows, View out) {
  const StepScope scope(memory);
  const int64_t top_k = experts_of(spec_, layer).routing.top_k;
  const RowOwners owners(place_, replica_rows);
  const bool summed = sums_over_block(stream);
  Exchange& exchange =
      summed || exchange_for(kind_, place_, owners.total()) == ExchangeKind::kGather ? *gather_
                                                                                     : *all_to_all_;
  groups_.enter(comm::Operation::kRoute, layer);
  const mesh::Range home = exchange.home(owners);
  const View home_x = x.slice_rows(home.begin, home.end);
  const View experts = memory.arena.allocate(DType::kI32, {home.size(), top_k});
  const View weights = memory.arena.allocate(DType::kF32, {home.size(), top_k});
  route(stream, memory, layer, home_x, experts, weights);
  const Arrivals arrivals =
      exchange.dispatch(memory.host, owners, on_host(ops_, stream, memory.host, home_x),
                        on_host(ops_, stream, memory.host, experts));

  groups_.enter(comm::Operation::kExperts, layer);
  Results results = compute(stream, memory, layer, arrivals);
  results.rows = on_host(ops_, stream, memory.host, results.rows);
  const View slots =
      memory.host.allocate(ops_.activation_dtype(), {home.size() * top_k, spec_.hidden});
  if (summed) {
    keep_own_results(arrivals.experts, results, slots);
  } else {
    exchange.combine(memory.host, owners, results.rows, results.positions, slots);
  }
  // Every shard has to see this alike, so it cannot depend on its own number of rows.
  const bool all_here =
      place_.tp == 1 || (&exchange == gather_.get() && place_.ranks() >= place_.tp);
  const View sums =
      all_here ? out : memory.arena.allocate(DType::kF32, {home.size(), spec_.hidden});
  ops_.combine_slots(stream, on_device(ops_, stream, memory.arena, slots), weights, sums);
  stream.synchronize();
  if (summed) {
    Collectives(ops_, stream, memory.host)
        .all_reduce_sum(groups_.expert_block(), sums, comm::wire_of(stream.numerics));
  }
  if (!all_here) share_own_rows(stream, memory, owners, sums, home, out);
}

/// In fast numerics the ranks of a block inside a replica add what each has computed of every row.
bool Experts::sums_over_block(const backend::Stream& stream) const {
  return stream.numerics == base::Numerics::kFast && place_.replicas == 1 && place_.ranks() > 1 &&
         kind_ != ExchangeKind::kAllToAll;
}

/// slots[row * top_k + slot] = the result that this rank computed, or 0.
void Experts::keep_own_results(View experts, const Results& results, View slots) const {
  size_t pair = 0;
  for (int64_t i = 0; i < slots.rows(); ++i) {
    const bool here = local_[static_cast<size_t>(experts.i32()[i])] >= 0;
    if (here) {
      copy_bytes(row_at(results.rows, results.positions[pair++]), row_at(slots, i),
                 row_bytes(slots));
    } else {
      std::memset(row_at(slots, i), 0, static_cast<size_t>(row_bytes(slots)));
    }
  }
}

void Experts::route(backend::Stream& stream, StepMemory memory, int32_t layer, View x, View experts,
                    View weights) {
  const ExpertsSpec& spec = experts_of(spec_, layer);
  const StepScope scope(memory);
  const View logits = memory.arena.allocate(DType::kF32, {x.rows(), spec.count});
  ops_.matmul(stream, memory.arena, x, {{weights_.get(ParamKind::kRouter, layer), logits}});
  replace_router_logits(spec.dummy_routing, ops_, stream, memory.host, logits);
  ops_.route(stream, logits, weights_.find(ParamKind::kRouterBias, layer), spec.routing, experts,
             weights);
  stream.synchronize();
}

/// Sorted by expert; the pairs of one expert keep their order.
Experts::Pairs Experts::sort_pairs(tensor::Arena& host, int32_t layer, View experts) {
  const std::span<const int32_t> chosen(experts.i32(),
                                        static_cast<size_t>(experts.shape.elements()));
  const auto local_of = [this](int32_t expert) { return local_[static_cast<size_t>(expert)]; };
  std::vector<int32_t> ends(weights_.experts(ParamKind::kExpertGate, layer).size(), 0);
  LayerExpertStats& stats = stats_of(layer);
  for (const int32_t expert : chosen) {
    if (local_of(expert) < 0) continue;
    ++ends[static_cast<size_t>(local_of(expert))];
    ++stats.rows[static_cast<size_t>(expert)];
  }
  std::vector<int32_t> next(ends.size());
  std::exclusive_scan(ends.begin(), ends.end(), next.begin(), 0);
  std::partial_sum(ends.begin(), ends.end(), ends.begin());
  const int64_t count = ends.back();
  const Pairs pairs{.ends = std::move(ends),
                    .rows = host.allocate(DType::kI32, {count}),
                    .positions = host.allocate(DType::kI32, {count})};
  int64_t pair = 0;
  for (int64_t i = 0; i < std::ssize(chosen); ++i) {
    const int32_t local = local_of(chosen[static_cast<size_t>(i)]);
    if (local < 0) continue;
    const int32_t position = next[static_cast<size_t>(local)]++;
    pairs.positions.i32()[pair++] = position;
    pairs.rows.i32()[position] = static_cast<int32_t>(i / experts.shape[1]);
  }
  return pairs;
}

Experts::Results Experts::compute(backend::Stream& stream, StepMemory memory, int32_t layer,
                                  const Arrivals& arrivals) {
  const Pairs pairs = sort_pairs(memory.host, layer, arrivals.experts);
  const int64_t count = pairs.rows.rows();
  const View out = memory.arena.allocate(ops_.activation_dtype(), {count, spec_.hidden});
  const std::span<const int32_t> positions(pairs.positions.i32(), static_cast<size_t>(count));
  if (count == 0) return {out, positions};

  const StepScope scope(memory);
  tensor::Arena& arena = memory.arena;
  const auto gate_weights = weights_.experts(ParamKind::kExpertGate, layer);
  const int64_t width = gate_weights.front()->rows();
  const View x = arena.allocate(ops_.activation_dtype(), {count, spec_.hidden});
  ops_.gather_rows(stream, on_device(ops_, stream, arena, arrivals.rows),
                   on_device(ops_, stream, arena, pairs.rows), x);
  const View gate = arena.allocate(DType::kF32, {count, width});
  const View up = arena.allocate(DType::kF32, {count, width});
  ops_.grouped_matmul(stream, arena, x, pairs.ends,
                      {{gate_weights, gate}, {weights_.experts(ParamKind::kExpertUp, layer), up}});
  const View hidden = arena.allocate(ops_.activation_dtype(), {count, width});
  ops_.gated_activation(stream, experts_of(spec_, layer).activation, gate, up, hidden);
  const View sums = arena.allocate(DType::kF32, {count, spec_.hidden});
  ops_.grouped_matmul(stream, arena, hidden, pairs.ends,
                      {{weights_.experts(ParamKind::kExpertDown, layer), sums}});
  if (!sums_over_block(stream)) {
    Collectives(ops_, stream, memory.host)
        .all_reduce_sum(groups_.tensor(mesh::Role::kExpert), sums, comm::wire_of(stream.numerics));
  }
  ops_.to_activation(stream, sums, out);
  return {out, positions};
}

/// Each shard of the replica gives the sums of the rows that it owns to the others.
void Experts::share_own_rows(backend::Stream& stream, StepMemory memory, const RowOwners& owners,
                             View home, const mesh::Range& home_rows, View out) {
  const int64_t rows = out.rows();
  if (rows == 0) return;
  const View sums = on_host(ops_, stream, memory.host, home);
  const View whole = ops_.in_host_memory() ? out : memory.host.allocate(out.dtype, out.shape);
  const int64_t longest = base::ceil_div(rows, int64_t{place_.tp});
  const std::span<std::byte> mine = allocate_bytes(memory.host, longest * row_bytes(out));
  const std::span<std::byte> all =
      allocate_bytes(memory.host, place_.tp * longest * row_bytes(out));
  const int64_t own_bytes = owners.own.size() * row_bytes(out);
  copy_bytes(row_at(sums, owners.own.begin - home_rows.begin), mine.data(), own_bytes);
  std::fill(mine.begin() + own_bytes, mine.end(), std::byte{0});
  groups_.tensor(mesh::Role::kMlp).all_gather(mine, all);
  for (int shard = 0; shard < place_.tp; ++shard) {
    const mesh::Range theirs = RowOwners::rows_of_shard(place_, rows, shard);
    copy_bytes(all.data() + shard * longest * row_bytes(out), row_at(whole, theirs.begin),
               theirs.size() * row_bytes(out));
  }
  if (ops_.in_host_memory()) return;
  ops_.copy_in(stream, whole, out);
  stream.synchronize();
}

LayerExpertStats& Experts::stats_of(int32_t layer) {
  const auto it = std::find_if(stats_.begin(), stats_.end(),
                               [layer](const LayerExpertStats& s) { return s.layer == layer; });
  if (it != stats_.end()) return *it;
  return stats_.emplace_back(
      LayerExpertStats{.layer = layer, .rows = std::vector<int64_t>(place_.shard_of.size(), 0)});
}

ExpertStats Experts::stats() const {
  ExpertStats out{.layers = stats_};
  for (const Exchange* exchange : {gather_.get(), all_to_all_.get()}) {
    out.dispatched_bytes += exchange->counters().dispatched_bytes;
    out.combined_bytes += exchange->counters().combined_bytes;
  }
  return out;
}

Experts::Plan Experts::plan(const ModelSpec& spec, const backend::Ops& ops, const mesh::Mesh& mesh,
                            ExchangeKind exchange, int64_t rows) {
  constexpr int64_t kF32 = size_of(DType::kF32);
  constexpr int64_t kPadding = int64_t{64} * 24;  // of the views that live at once
  const BlockPlace place = BlockPlace::of(mesh, 0);
  const int64_t activation = size_of(ops.activation_dtype());
  const int64_t h = spec.hidden;
  Plan plan;
  for (const LayerSpec& layer : spec.layers) {
    const ExpertsSpec& e = layer.experts;
    if (e.count == 0) continue;
    const int64_t k = e.routing.top_k;
    // Of the largest piece: each replica's part of it may be rounded up.
    const int64_t most = piece_rows(place, k) + place.replicas;
    const int64_t replica_rows = std::min(rows, most);
    const int64_t own = base::ceil_div(replica_rows, int64_t{place.tp});
    const ExchangeLimits limits{.rows = place.replicas == 1
                                            ? std::min(replica_rows, own * place.ranks())
                                            : std::min(rows * place.replicas, most),
                                .own_rows = own,
                                .row_bytes = h * activation,
                                .top_k = k,
                                .pairs_per_row = pairs_per_row(place, k)};
    const int64_t home = std::max(own, std::min(limits.rows, replica_rows));
    const int64_t pairs = limits.rows * limits.pairs_per_row;
    const int64_t width = base::ceil_div(e.intermediate, int64_t{place.etp}) + kGranule;
    const int64_t routing = home * (e.count * kF32 + 2 * k * kF32);
    const int64_t compute =
        pairs * (2 * kF32 + 2 * h * activation + width * (2 * kF32 + activation) + h * kF32) +
        e.count * kF32;
    const int64_t sums =
        home * k * h * activation + home * h * kF32 + (1 + place.tp) * own * h * kF32;
    const int64_t exchanged = exchange_arena_bytes(exchange, place, limits);
    if (ops.in_host_memory()) {
      plan.arena_bytes =
          std::max(plan.arena_bytes, routing + compute + sums + kPadding + exchanged);
    } else {
      // Arrived rows are in both memories, and so are the choices, results and sums.
      plan.arena_bytes = std::max(
          plan.arena_bytes, routing + compute + sums + kPadding + limits.rows * h * activation);
      plan.host_arena_bytes =
          std::max(plan.host_arena_bytes,
                   exchanged + routing + sums + home * h * activation + replica_rows * h * kF32 +
                       pairs * (2 * kF32 + h * std::max(activation, 2 * kF32)) + kPadding);
    }
    plan.limits.rows = std::max({plan.limits.rows, pairs, home});
    plan.limits.columns = std::max({plan.limits.columns, h, width});
    plan.limits.groups = std::max(plan.limits.groups, e.count);
  }
  return plan;
}

}  // namespace fourfold::model
