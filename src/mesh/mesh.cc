#include "mesh/mesh.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace fourfold::mesh {
namespace {

constexpr int kSuggestions = 3;
constexpr std::string_view kExample = "a scheme looks like tp4pp2 or tp2dp4ep8";

int default_etp(int tp, int ep) { return tp % ep == 0 ? tp / ep : 1; }

int resolved_etp(const ParallelConfig& c) { return c.etp == 0 ? default_etp(c.tp, c.ep) : c.etp; }

/// The axes of a scheme's name, in the order of the name.
struct NamedAxis {
  std::string_view name;
  int ParallelConfig::*size;
};
constexpr NamedAxis kNamedAxes[] = {{"tp", &ParallelConfig::tp},
                                    {"pp", &ParallelConfig::pp},
                                    {"dp", &ParallelConfig::dp},
                                    {"ep", &ParallelConfig::ep},
                                    {"etp", &ParallelConfig::etp}};

base::Status check_axes(const ParallelConfig& c) {
  for (const NamedAxis& axis : kNamedAxes) {
    const int smallest = axis.size == &ParallelConfig::etp ? 0 : 1;
    const int size = c.*axis.size;
    if (size < smallest || size > kMaxDevices) {
      return base::fail("{} = {} is not possible: expected {} to {}", axis.name, size, smallest,
                        kMaxDevices);
    }
  }
  const int64_t stage_ranks = int64_t{c.dp} * c.tp;
  if (stage_ranks > kMaxDevices || stage_ranks * c.pp > kMaxDevices) {
    return base::fail("tp{} x pp{} x dp{} are more than {} devices", c.tp, c.pp, c.dp, kMaxDevices);
  }
  return {};
}

base::Status check_model(const ModelDivisors& m) {
  const bool has_mlp = m.intermediate_granules > 0 || m.experts > 0;
  if (m.layers < 1 || m.heads < 1 || m.kv_heads < 1 || m.intermediate_granules < 0 || !has_mlp ||
      m.experts < 0 || (m.experts > 0) != (m.expert_granules > 0)) {
    return base::fail(
        "a model with {} layers, {} heads, {} KV heads, {} MLP granules, {} experts of {} granules "
        "is not possible",
        m.layers, m.heads, m.kv_heads, m.intermediate_granules, m.experts, m.expert_granules);
  }
  return {};
}

base::Status check_dense_axes(const ParallelConfig& c, const ModelDivisors& m) {
  if (kReductionSlices % c.tp != 0) {
    return base::fail(
        "tp{} cannot keep invariant numerics: each reduction has {} slices, so tp must be 1, 2, 4 "
        "or 8",
        c.tp, kReductionSlices);
  }
  if (c.pp > m.layers) {
    return base::fail("pp{} cannot split {} layers: each stage needs at least one", c.pp, m.layers);
  }
  if (m.heads % c.tp != 0) {
    return base::fail("tp{} cannot split {} heads: {} is not divisible by {}", c.tp, m.heads,
                      m.heads, c.tp);
  }
  if (m.kv_heads % c.tp != 0 && c.tp % m.kv_heads != 0) {
    return base::fail(
        "tp{} can neither split nor replicate {} KV heads: neither of {} and {} divides the other",
        c.tp, m.kv_heads, m.kv_heads, c.tp);
  }
  if (m.intermediate_granules > 0 && m.intermediate_granules < c.tp) {
    return base::fail("tp{} cannot split an MLP of {} granules: each shard needs at least one",
                      c.tp, m.intermediate_granules);
  }
  return {};
}

/// `c` with etp resolved.
base::Status check_expert_axes(const ParallelConfig& c, const ModelDivisors& m,
                               const ExpertPlacement& placement) {
  if (m.experts == 0) {
    if (c.ep > 1) return base::fail("ep{} needs a model with experts; this one is dense", c.ep);
    if (c.etp != c.tp) {
      return base::fail("etp{} needs a model with experts; a dense one has etp = tp = {}", c.etp,
                        c.tp);
    }
    return {};
  }
  FF_TRY(placement.check(m.experts, c.ep));
  if (kReductionSlices % c.etp != 0) {
    return base::fail(
        "etp{} cannot keep invariant numerics: each reduction has {} slices, so etp must be 1, 2, "
        "4 or 8",
        c.etp, kReductionSlices);
  }
  if (m.expert_granules < c.etp) {
    return base::fail("etp{} cannot split an expert of {} granules: each shard needs at least one",
                      c.etp, m.expert_granules);
  }
  const int64_t block = int64_t{c.ep} * c.etp;
  const bool within_replica = c.tp % block == 0;
  const bool whole_replicas = block % c.tp == 0 && c.dp % (block / c.tp) == 0;
  if (!within_replica && !whole_replicas) {
    return base::fail(
        "ep{} x etp{} = {} ranks neither divide tp{} nor cover whole replicas (tp{} times a "
        "divisor of dp{})",
        c.ep, c.etp, block, c.tp, c.tp, c.dp);
  }
  return {};
}

/// Reads a decimal number of at most kMaxDevices from the front of `text`; 0 where there is none.
int take_number(std::string_view& text) {
  int value = 0;
  while (!text.empty() && text[0] >= '0' && text[0] <= '9' && value <= kMaxDevices) {
    value = value * 10 + (text[0] - '0');
    text.remove_prefix(1);
  }
  return value <= kMaxDevices ? value : 0;
}

std::vector<int> divisors(int n) {
  std::vector<int> out;
  for (int d = 1; d <= n; ++d) {
    if (n % d == 0) out.push_back(d);
  }
  return out;
}

int changed_axes(const ParallelConfig& a, const ParallelConfig& b) {
  int changed = resolved_etp(a) != resolved_etp(b) && a.etp != b.etp ? 1 : 0;
  for (const auto axis :
       {&ParallelConfig::tp, &ParallelConfig::pp, &ParallelConfig::dp, &ParallelConfig::ep}) {
    if (a.*axis != b.*axis) ++changed;
  }
  return changed;
}

}  // namespace

std::string scheme_name(const ParallelConfig& config) {
  std::string name;
  for (const NamedAxis& axis : kNamedAxes) {
    const int size = config.*axis.size;
    const bool shown = axis.size == &ParallelConfig::etp
                           ? resolved_etp(config) != default_etp(config.tp, config.ep)
                           : size != 1;
    if (shown) name += fmt::format("{}{}", axis.name, size);
  }
  return name.empty() ? "tp1" : name;
}

base::Result<ParallelConfig> parse_scheme(std::string_view name) {
  if (name == "A") return ParallelConfig{.tp = 8};
  if (name == "B") return ParallelConfig{.pp = 2, .tp = 4};
  if (name == "C") return ParallelConfig{.pp = 2, .dp = 2, .tp = 2};
  if (name == "D") return ParallelConfig{.dp = 8};
  ParallelConfig config;
  std::vector<std::string_view> seen;
  std::string_view rest = name;
  while (!rest.empty()) {
    const auto* axis = std::find_if(std::begin(kNamedAxes), std::end(kNamedAxes),
                                    [&](const NamedAxis& a) { return rest.starts_with(a.name); });
    if (axis == std::end(kNamedAxes)) {
      return base::fail("scheme \"{}\": expected tp, pp, dp, ep or etp at \"{}\"; {}", name, rest,
                        kExample);
    }
    if (std::find(seen.begin(), seen.end(), axis->name) != seen.end()) {
      return base::fail("scheme \"{}\" gives {} twice; {}", name, axis->name, kExample);
    }
    seen.push_back(axis->name);
    rest.remove_prefix(axis->name.size());
    const int size = take_number(rest);
    if (size == 0) {
      return base::fail("scheme \"{}\": expected a number from 1 to {} after {}; {}", name,
                        kMaxDevices, axis->name, kExample);
    }
    config.*axis->size = size;
  }
  if (seen.empty()) return base::fail("empty scheme; {}", kExample);
  // One scheme, one value: tp2ep2etp1 is tp2ep2.
  if (config.etp == default_etp(config.tp, config.ep)) config.etp = 0;
  return config;
}

std::string_view name_of(Axis axis) {
  switch (axis) {
    case Axis::kTensor:
      return "tp";
    case Axis::kPipeline:
      return "pp";
    case Axis::kData:
      return "dp";
    case Axis::kExpert:
      return "ep";
    case Axis::kExpertTensor:
      return "etp";
    case Axis::kExpertData:
      return "edp";
    case Axis::kControl:
      return "control";
  }
  CHECK(false, "axis {}", static_cast<int>(axis));
}

base::Result<Mesh> Mesh::create(const ParallelConfig& config, const ModelDivisors& model,
                                const ExpertPlacement& placement) {
  FF_TRY(check_axes(config));
  FF_TRY(check_model(model));
  ParallelConfig resolved = config;
  resolved.etp = resolved_etp(config);
  FF_TRY(check_dense_axes(resolved, model));
  FF_TRY(check_expert_axes(resolved, model, placement));
  return Mesh(resolved, std::max(1, resolved.ep * resolved.etp / resolved.tp), model.experts,
              placement);
}

Coordinates coordinates(const ParallelConfig& config, int rank) {
  CHECK(rank >= 0 && rank < config.devices(), "rank {} of {}", rank, config.devices());
  return {.stage = rank / config.tp / config.dp,
          .replica = rank / config.tp % config.dp,
          .shard = rank % config.tp};
}

Coordinates Mesh::coordinates(int rank) const { return mesh::coordinates(config_, rank); }

ExpertCoordinates expert_coordinates(const ParallelConfig& config, int rank) {
  CHECK(rank >= 0 && rank < config.devices(), "rank {} of {}", rank, config.devices());
  const int etp = resolved_etp(config);
  const int in_stage = rank % (config.dp * config.tp);
  return {
      .edp = in_stage / etp / config.ep, .ep = in_stage / etp % config.ep, .etp = in_stage % etp};
}

ExpertCoordinates Mesh::expert_coordinates(int rank) const {
  return mesh::expert_coordinates(config_, rank);
}

int Mesh::rank(const Coordinates& c) const {
  CHECK(c.stage >= 0 && c.stage < config_.pp && c.replica >= 0 && c.replica < config_.dp &&
            c.shard >= 0 && c.shard < config_.tp,
        "stage {}, replica {}, shard {} in {}", c.stage, c.replica, c.shard, scheme_name(config_));
  return (c.stage * config_.dp + c.replica) * config_.tp + c.shard;
}

std::vector<int> Mesh::group(int rank, Role role, Axis axis) const {
  const Coordinates at = coordinates(rank);
  const ExpertCoordinates expert = expert_coordinates(rank);
  // A group is an arithmetic progression: this rank's index in it, its size, and the distance of
  // neighbours.
  const auto progression = [rank](int index, int size, int stride) {
    std::vector<int> ranks(static_cast<size_t>(size));
    for (int i = 0; i < size; ++i) ranks[static_cast<size_t>(i)] = rank + (i - index) * stride;
    return ranks;
  };
  const int stage_ranks = config_.dp * config_.tp;
  const int block = config_.ep * config_.etp;
  switch (axis) {
    case Axis::kPipeline:
      return progression(at.stage, config_.pp, stage_ranks);
    case Axis::kData:
      return progression(at.replica, config_.dp, config_.tp);
    case Axis::kTensor:
      CHECK(role != Role::kExpert, "experts are split along ep, etp and edp, not along tp");
      return progression(at.shard, config_.tp, 1);
    case Axis::kExpert:
    case Axis::kExpertTensor:
    case Axis::kExpertData:
      CHECK(role == Role::kExpert, "axis {} belongs to experts only", name_of(axis));
      if (axis == Axis::kExpert) return progression(expert.ep, config_.ep, config_.etp);
      if (axis == Axis::kExpertTensor) return progression(expert.etp, config_.etp, 1);
      return progression(expert.edp, stage_ranks / block, block);
    case Axis::kControl:
      break;
  }
  CHECK(false, "axis {} splits no work", name_of(axis));
}

std::vector<int> Mesh::expert_block(int rank) const {
  const ExpertCoordinates at = expert_coordinates(rank);
  std::vector<int> ranks(static_cast<size_t>(config_.ep) * static_cast<size_t>(config_.etp));
  std::iota(ranks.begin(), ranks.end(), rank - at.ep * config_.etp - at.etp);
  return ranks;
}

std::vector<int64_t> Mesh::experts_of(int ep) const {
  return experts_ == 0 ? std::vector<int64_t>() : placement_.experts_of(experts_, config_.ep, ep);
}

std::vector<int> Mesh::split_layers(const std::vector<double>& costs, double first_extra,
                                    double last_extra, int stages) {
  const int layers = static_cast<int>(costs.size());
  CHECK(stages >= 1 && stages <= layers, "{} stages for {} layers", stages, layers);
  std::vector<double> prefix(costs.size() + 1, 0.0);
  for (size_t i = 0; i < costs.size(); ++i) prefix[i + 1] = prefix[i] + costs[i];
  const auto stage_cost = [&](int stage, int begin, int end) {
    return prefix[static_cast<size_t>(end)] - prefix[static_cast<size_t>(begin)] +
           (stage == 0 ? first_extra : 0.0) + (stage == stages - 1 ? last_extra : 0.0);
  };
  // largest[s][end]: the smallest possible largest stage when stages 0..s hold layers [0, end), and
  // begin[s][end]: where stage s begins then.
  const auto s_count = static_cast<size_t>(stages);
  std::vector<std::vector<double>> largest(
      s_count, std::vector<double>(costs.size() + 1, std::numeric_limits<double>::infinity()));
  std::vector<std::vector<int>> begin(s_count, std::vector<int>(costs.size() + 1, 0));
  for (int end = 1; end <= layers; ++end) {
    largest[0][static_cast<size_t>(end)] = stage_cost(0, 0, end);
  }
  for (int s = 1; s < stages; ++s) {
    const auto row = static_cast<size_t>(s);
    for (int end = s + 1; end <= layers; ++end) {
      const auto column = static_cast<size_t>(end);
      for (int b = s; b < end; ++b) {
        const double cost =
            std::max(largest[row - 1][static_cast<size_t>(b)], stage_cost(s, b, end));
        if (cost < largest[row][column]) {
          largest[row][column] = cost;
          begin[row][column] = b;
        }
      }
    }
  }
  std::vector<int> split(s_count + 1, 0);
  split[s_count] = layers;
  for (size_t s = s_count - 1; s > 0; --s) {
    split[s] = begin[s][static_cast<size_t>(split[s + 1])];
  }
  return split;
}

std::vector<ParallelConfig> schemes(int devices, const ModelDivisors& model) {
  CHECK(devices >= 1 && devices <= kMaxDevices, "{} devices", devices);
  std::vector<ParallelConfig> out;
  const std::vector<int> tps = divisors(devices);
  for (auto tp = tps.rbegin(); tp != tps.rend(); ++tp) {
    for (const int pp : divisors(devices / *tp)) {
      const int stage_ranks = devices / pp;
      ParallelConfig config{.pp = pp, .dp = stage_ranks / *tp, .tp = *tp};
      if (model.experts == 0) {
        out.push_back(config);
        continue;
      }
      for (const int ep : divisors(stage_ranks)) {
        config.ep = ep;
        config.etp = 0;
        out.push_back(config);
        for (const int etp : divisors(stage_ranks / ep)) {
          if (etp == default_etp(*tp, ep)) continue;
          config.etp = etp;
          out.push_back(config);
        }
      }
    }
  }
  return out;
}

std::vector<ParallelConfig> nearest_legal(const ParallelConfig& wanted, const ModelDivisors& model,
                                          int count, const ExpertPlacement& placement) {
  std::vector<ParallelConfig> out;
  // Without this no number of devices below would be legal.
  if (!check_axes(wanted).ok() || !Mesh::create({}, model).ok()) return out;
  for (int devices = wanted.devices(); devices >= 1; --devices) {
    std::vector<ParallelConfig> legal = schemes(devices, model);
    std::erase_if(legal,
                  [&](const ParallelConfig& c) { return !Mesh::create(c, model, placement).ok(); });
    std::stable_sort(legal.begin(), legal.end(),
                     [&](const ParallelConfig& a, const ParallelConfig& b) {
                       return changed_axes(wanted, a) < changed_axes(wanted, b);
                     });
    for (const ParallelConfig& config : legal) {
      if (static_cast<int>(out.size()) == count) return out;
      out.push_back(config);
    }
  }
  return out;
}

base::Result<Mesh> create_or_suggest(const ParallelConfig& config, const ModelDivisors& model,
                                     const ExpertPlacement& placement) {
  base::Result<Mesh> mesh = Mesh::create(config, model, placement);
  if (mesh.ok()) return mesh;
  std::string names;
  for (const ParallelConfig& near : nearest_legal(config, model, kSuggestions, placement)) {
    if (near.devices() != config.devices()) break;
    names += (names.empty() ? "" : ", ") + scheme_name(near);
  }
  if (names.empty()) return mesh;
  return base::fail("{}; nearest legal schemes for {} devices: {}", mesh.error().message,
                    config.devices(), names);
}

Range granule_range(int64_t granules, int parts, int index) {
  CHECK(granules >= 0 && parts >= 1 && index >= 0 && index < parts, "part {} of {} of {} granules",
        index, parts, granules);
  return {.begin = index * granules / parts, .end = (index + 1) * granules / parts};
}

}  // namespace fourfold::mesh
