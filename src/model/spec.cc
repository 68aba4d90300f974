#include "model/spec.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/sizes.h"

namespace fourfold::model {
namespace {

const Param* find(const ModelSpec& spec, ParamKind kind, int32_t layer, int32_t expert) {
  const auto it = std::find_if(spec.params.begin(), spec.params.end(), [&](const Param& p) {
    return p.kind == kind && p.layer == layer && p.expert == expert;
  });
  return it == spec.params.end() ? nullptr : &*it;
}

/// Ends of the local slices when granule g covers columns [g*width, min((g+1)*width, columns)).
std::vector<int64_t> slice_ends(int64_t granules, int64_t width, int64_t columns, int tp,
                                int shard) {
  const int local = mesh::kReductionSlices / tp;
  const int64_t begin =
      mesh::granule_range(granules, mesh::kReductionSlices, shard * local).begin * width;
  std::vector<int64_t> ends;
  for (int i = 0; i < local; ++i) {
    const mesh::Range slice =
        mesh::granule_range(granules, mesh::kReductionSlices, shard * local + i);
    ends.push_back(std::min(slice.end * width, columns) - begin);
  }
  return ends;
}

mesh::Range granule_columns(int64_t size, int tp, int shard) {
  const mesh::Range g = mesh::granule_range(base::ceil_div(size, kGranule), tp, shard);
  return {g.begin * kGranule, std::min(g.end * kGranule, size)};
}

}  // namespace

const Param& ModelSpec::param(ParamKind kind, int32_t layer, int32_t expert) const {
  const Param* p = find(*this, kind, layer, expert);
  CHECK(p != nullptr, "model has no parameter of kind {} in layer {}, expert {}",
        static_cast<int>(kind), layer, expert);
  return *p;
}

bool ModelSpec::has(ParamKind kind, int32_t layer, int32_t expert) const {
  return find(*this, kind, layer, expert) != nullptr;
}

int64_t ModelSpec::experts() const {
  int64_t count = 0;
  for (const LayerSpec& layer : layers) count = std::max(count, layer.experts.count);
  return count;
}

mesh::ModelDivisors ModelSpec::divisors() const {
  // Layers may have MLPs of different widths: the narrowest decides.
  const auto narrower = [](int64_t granules, int64_t width) {
    if (width == 0) return granules;
    const int64_t own = base::ceil_div(width, kGranule);
    return granules == 0 ? own : std::min(granules, own);
  };
  mesh::ModelDivisors out;
  out.layers = static_cast<int64_t>(layers.size());
  out.heads = layers.front().attention.heads;
  out.kv_heads = layers.front().attention.kv_heads;
  out.experts = experts();
  for (const LayerSpec& layer : layers) {
    out.intermediate_granules = narrower(out.intermediate_granules, layer.mlp.intermediate);
    out.expert_granules = narrower(out.expert_granules, layer.experts.intermediate);
  }
  return out;
}

int64_t ModelSpec::parameter_count() const {
  int64_t n = 0;
  for (const Param& p : params) n += p.rows * p.columns;
  return n;
}

mesh::Range head_range(const AttentionSpec& attention, int tp, int shard) {
  const int64_t per_shard = attention.heads / tp;
  return {shard * per_shard, (shard + 1) * per_shard};
}

mesh::Range kv_head_range(const AttentionSpec& attention, int tp, int shard) {
  const int64_t group = attention.heads / attention.kv_heads;
  const mesh::Range heads = head_range(attention, tp, shard);
  return {heads.begin / group, (heads.end - 1) / group + 1};
}

int64_t vocab_shard_rows(const ModelSpec& spec, int tp) { return base::ceil_div(spec.vocab, tp); }

ParamShard shard_of(const ModelSpec& spec, const Param& param, int tp, int shard) {
  ParamShard out{.rows = {0, param.rows}, .columns = {0, param.columns}, .slice_ends = {}};
  const AttentionSpec* attention =
      param.layer < 0 ? nullptr : &spec.layers[static_cast<size_t>(param.layer)].attention;
  switch (param.cut) {
    case Cut::kReplicated:
      break;
    case Cut::kRowsByVocab: {
      const int64_t rows = vocab_shard_rows(spec, tp);
      out.rows = {std::min(shard * rows, spec.vocab), std::min((shard + 1) * rows, spec.vocab)};
      break;
    }
    case Cut::kRowsByHead: {
      const mesh::Range heads = head_range(*attention, tp, shard);
      out.rows = {heads.begin * attention->head_dim, heads.end * attention->head_dim};
      break;
    }
    case Cut::kRowsByKvHead: {
      const mesh::Range heads = kv_head_range(*attention, tp, shard);
      out.rows = {heads.begin * attention->head_dim, heads.end * attention->head_dim};
      break;
    }
    case Cut::kRowsByGranule:
      out.rows = granule_columns(param.rows, tp, shard);
      break;
    case Cut::kColumnsByHead: {
      const mesh::Range heads = head_range(*attention, tp, shard);
      out.columns = {heads.begin * attention->head_dim, heads.end * attention->head_dim};
      out.slice_ends = slice_ends(attention->heads, attention->head_dim, param.columns, tp, shard);
      return out;
    }
    case Cut::kColumnsByKvHead: {
      const mesh::Range heads = kv_head_range(*attention, tp, shard);
      out.columns = {heads.begin * attention->head_dim, heads.end * attention->head_dim};
      break;
    }
    case Cut::kColumnsByGranule:
      out.columns = granule_columns(param.columns, tp, shard);
      out.slice_ends =
          slice_ends(base::ceil_div(param.columns, kGranule), kGranule, param.columns, tp, shard);
      return out;
  }
  out.slice_ends = {out.columns.size()};
  return out;
}

RankShare share_of(const mesh::Mesh& mesh, int rank) {
  const mesh::ParallelConfig& config = mesh.config();
  const mesh::Coordinates at = mesh.coordinates(rank);
  RankShare share{.pp = config.pp, .stage = at.stage, .tp = config.tp, .shard = at.shard};
  if (mesh.has_experts()) {
    const mesh::ExpertCoordinates expert_at = mesh.expert_coordinates(rank);
    share.etp = config.etp;
    share.expert_shard = expert_at.etp;
    share.experts = mesh.experts_of(expert_at.ep);
  }
  return share;
}

std::optional<ParamShard> shard_of(const ModelSpec& spec, const Param& param,
                                   const RankShare& share) {
  if (param.expert < 0) return shard_of(spec, param, share.tp, share.shard);
  if (!std::binary_search(share.experts.begin(), share.experts.end(), param.expert)) {
    return std::nullopt;
  }
  return shard_of(spec, param, share.etp, share.expert_shard);
}

std::vector<int> layer_split(const ModelSpec& spec, int stages) {
  std::vector<double> costs(spec.layers.size(), 0.0);
  for (const Param& p : spec.params) {
    if (p.layer < 0) continue;
    const ExpertsSpec& experts = spec.layers[static_cast<size_t>(p.layer)].experts;
    auto cost = static_cast<double>(p.rows * p.columns);
    if (p.expert >= 0) {
      cost *= static_cast<double>(experts.routing.top_k) / static_cast<double>(experts.count);
    }
    costs[static_cast<size_t>(p.layer)] += cost;
  }
  // The embedding is a look-up; the head is a matmul over the whole vocabulary.
  const double head = static_cast<double>(spec.vocab * spec.hidden);
  return mesh::Mesh::split_layers(costs, 0.0, head, stages);
}

bool stage_holds(const ModelSpec& spec, const Param& param, const std::vector<int>& split,
                 int stage) {
  const int last = static_cast<int>(split.size()) - 2;
  switch (param.kind) {
    case ParamKind::kEmbedding:
      return stage == 0 || (spec.tied_embeddings && stage == last);
    case ParamKind::kFinalNorm:
    case ParamKind::kHead:
      return stage == last;
    default:
      return split[static_cast<size_t>(stage)] <= param.layer &&
             param.layer < split[static_cast<size_t>(stage) + 1];
  }
}

bool is_norm(ParamKind kind) {
  switch (kind) {
    case ParamKind::kFinalNorm:
    case ParamKind::kAttentionNorm:
    case ParamKind::kQueryNorm:
    case ParamKind::kKeyNorm:
    case ParamKind::kPostAttentionNorm:
    case ParamKind::kMlpNorm:
    case ParamKind::kPostMlpNorm:
      return true;
    default:
      return false;
  }
}

std::vector<float> rope_frequencies(const RopeSpec& rope, int64_t head_dim) {
  std::vector<float> out;
  for (int64_t i = 0; i < head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(head_dim);
    float frequency = 1.0F / std::pow(static_cast<float>(rope.theta), exponent);
    if (rope.scaling == RopeSpec::Scaling::kLinear) {
      frequency /= static_cast<float>(rope.factor);
    } else if (rope.scaling == RopeSpec::Scaling::kLlama3) {
      // Llama 3.1's rule: long wavelengths are stretched by `factor`, short ones kept, those in
      // between interpolated.
      const double wavelength = 2.0 * std::numbers::pi / frequency;
      const auto original = static_cast<double>(rope.original_max_positions);
      const double low = original / rope.low_freq_factor;
      const double high = original / rope.high_freq_factor;
      if (wavelength > low) {
        frequency = static_cast<float>(frequency / rope.factor);
      } else if (wavelength >= high) {
        const double smooth = (original / wavelength - rope.low_freq_factor) /
                              (rope.high_freq_factor - rope.low_freq_factor);
        frequency =
            static_cast<float>((1.0 - smooth) * frequency / rope.factor + smooth * frequency);
      }
    }
    out.push_back(frequency);
  }
  return out;
}

}  // namespace fourfold::model
