#include "runtime/cluster_config.h"

#include <algorithm>

#include "base/machine.h"
#include "base/sizes.h"
#include "comm/device_group.h"
#include "model/decoder.h"
#include "model/weights.h"
#include "runtime/available_memory.h"

namespace fourfold::runtime {

mesh::ParallelConfig group_config(const mesh::Mesh& mesh) {
  mesh::ParallelConfig config = mesh.config();
  config.dp = mesh.lockstep();
  return config;
}

namespace {

constexpr int32_t kHostStepTokens = 512;
constexpr int32_t kDeviceStepTokens = 8192;

/// The mesh of one group of the scheme, which is legal for the model.
mesh::Mesh group_mesh(const ClusterConfig& config, const model::ModelSpec& spec) {
  const mesh::ModelDivisors divisors = spec.divisors();
  const mesh::Mesh all =
      mesh::Mesh::create(config.scheme, divisors, config.expert_placement).value();
  return mesh::Mesh::create(group_config(all), divisors, config.expert_placement).value();
}

/// The largest over the ranks.
int64_t largest_block_bytes(const ClusterConfig& config, const model::ModelSpec& spec,
                            const backend::Ops& ops) {
  int64_t largest = 0;
  const mesh::Mesh mesh = group_mesh(config, spec);
  for (int rank = 0; rank < mesh.world_size(); ++rank) {
    largest = std::max(
        largest, model::kv_block_bytes(spec, ops, model::share_of(mesh, rank), config.block_size));
  }
  return largest;
}

}  // namespace

int usable_gpus(const ClusterConfig& config, const backend::Ops& ops) {
  return config.ranks == RankMode::kThreads ? std::min(ops.gpus(), 1) : ops.gpus();
}

int gpus_of(const ClusterConfig& config, const backend::Ops& ops) {
  return std::min(usable_gpus(config, ops), config.scheme.devices());
}

base::Result<model::ModelSource> open_source(const ClusterConfig& config) {
  FF_ASSIGN(model::ModelSource source, model::open_model(config.model, config.dummy_weights,
                                                         config.dummy_seed, config.dummy_routing));
  if (source.spec.experts() == 0) {
    const bool placed = config.expert_placement != mesh::ExpertPlacement::linear();
    if (placed || config.expert_exchange != model::ExchangeKind::kAuto) {
      return base::fail("{} needs a model with experts; {} is dense: leave it out",
                        placed ? "--expert-placement" : "--expert-exchange", config.model);
    }
  }
  return source;
}

namespace {

/// Bytes of KV cache a rank may take where nobody said how many.
base::Result<int64_t> kv_budget(const ClusterConfig& config, const model::ModelSpec& spec,
                                const backend::Ops& ops, const engine::ExecutorLimits& limits) {
  const int devices = config.scheme.devices();
  const std::optional<int64_t> free = ops.free_bytes();
  if (!free) return available_memory_bytes() / 4 / devices;
  // Of a GPU's ranks each also has what the libraries and the driver take. The GPUs are alike, and
  // the one that was asked is as full as any.
  const int gpus = gpus_of(config, ops);
  const auto sharers = static_cast<int>(base::ceil_div(int64_t{devices}, int64_t{gpus}));
  int64_t reserve = int64_t{512} << 20;
  if (sharers == 1) {
    reserve +=
        ((config.scheme.tp > 1 ? 1 : 0) + (config.scheme.pp > 1 ? 1 : 0)) * comm::kDeviceGroupBytes;
  }
  engine::ExecutorLimits without_cache = limits;
  without_cache.blocks = 0;
  int64_t others = 0;
  for (const RankMemory& rank : plan_memory(config, spec, ops, without_cache)) {
    others = std::max(others, rank.weight_bytes + rank.activation_bytes);
  }
  const auto usable = static_cast<int64_t>(config.gpu_memory_share * static_cast<double>(*free));
  const int64_t budget = usable / sharers - others - reserve;
  if (budget <= 0) {
    return base::fail(
        "the model does not fit: {} bytes of weights and activations and {} of reserve on each of "
        "{} devices, with {} bytes of a {} for {} of them: split it over more, lower "
        "--max-num-batched-tokens, or raise --gpu-memory-utilization",
        others, reserve, devices, usable, ops.gpu(), sharers);
  }
  return budget;
}

}  // namespace

base::Result<engine::ExecutorLimits> plan_limits(const ClusterConfig& config,
                                                 const model::ModelSpec& spec,
                                                 const backend::Ops& ops) {
  engine::ExecutorLimits limits;
  limits.stages = config.scheme.pp;
  limits.depth = config.depth > 0 ? config.depth : config.scheme.pp + 1;
  limits.slots = config.max_running;
  limits.max_step_tokens = config.scheduler.max_step_tokens > 0 ? config.scheduler.max_step_tokens
                           : ops.in_host_memory()               ? kHostStepTokens
                                                                : kDeviceStepTokens;
  limits.block_size = config.block_size;
  const int64_t positions =
      config.max_positions > 0 ? int64_t{config.max_positions} : spec.max_positions;
  if (positions > spec.max_positions) {
    return base::fail(
        "sequences of {} tokens do not fit the model's context of {}; shorten the "
        "prompt or the output",
        positions, spec.max_positions);
  }
  limits.max_positions = static_cast<int32_t>(positions);

  const int64_t per_sequence = base::ceil_div(positions, config.block_size);
  const int64_t block_bytes = largest_block_bytes(config, spec, ops);
  int64_t budget = config.kv_bytes;
  if (budget == 0) {
    FF_ASSIGN(budget, kv_budget(config, spec, ops, limits));
  }
  // A device keeps one more block, for rows that only fill up a step.
  const int64_t spare = ops.in_host_memory() ? 0 : 1;
  const int64_t affordable = config.kv_blocks > 0 ? config.kv_blocks : budget / block_bytes - spare;
  if (affordable < per_sequence) {
    return base::fail(
        "a KV cache of {} bytes a device holds {} blocks of {} positions, but one sequence of {} "
        "tokens needs {} ({} bytes): raise --kv-cache-memory-bytes, shorten --max-model-len, or "
        "split over more devices",
        budget, affordable, config.block_size, positions, per_sequence, per_sequence * block_bytes);
  }
  limits.blocks = std::min(affordable, per_sequence * config.max_running);
  return limits;
}

std::vector<RankMemory> plan_memory(const ClusterConfig& config, const model::ModelSpec& spec,
                                    const backend::Ops& ops, const engine::ExecutorLimits& limits) {
  const mesh::Mesh mesh = group_mesh(config, spec);
  const int64_t activation_bytes =
      model::Decoder::arena_bytes(spec, ops, mesh, config.expert_exchange, config.cpus_per_device,
                                  limits.max_step_tokens,
                                  std::min(limits.slots, limits.max_step_tokens)) +
      model::Decoder::table_bytes(spec, limits.max_positions) + step_input_bytes(limits);
  std::vector<RankMemory> out;
  for (int rank = 0; rank < mesh.world_size(); ++rank) {
    const model::RankShare share = model::share_of(mesh, rank);
    RankMemory memory;
    memory.weight_bytes = model::weight_bytes(spec, ops, share);
    memory.kv_bytes = limits.blocks * model::kv_block_bytes(spec, ops, share, config.block_size);
    memory.activation_bytes = activation_bytes;
    out.push_back(memory);
  }
  return out;
}

RankConfig rank_config(const ClusterConfig& config, const mesh::Mesh& mesh,
                       const engine::ExecutorLimits& limits, int gpus, int group) {
  RankConfig out{.model = config.model,
                 .dummy_weights = config.dummy_weights,
                 .dummy_seed = config.dummy_seed,
                 .dummy_routing = config.dummy_routing,
                 .group = group_config(mesh),
                 .backend = config.backend,
                 .isa = config.isa,
                 .threads = config.cpus_per_device,
                 .gpus = gpus,
                 .cpus = {},
                 .limits = limits,
                 .expert_placement = config.expert_placement,
                 .expert_exchange = config.expert_exchange,
                 .groups = mesh.groups(),
                 .group_index = group};
  out.limits.replicas = mesh.lockstep();
  // Ranks are pinned where every one can have cores of its own.
  const std::vector<int> cpus = base::usable_cpus();
  const auto per_group =
      static_cast<size_t>(mesh.group_size()) * static_cast<size_t>(config.cpus_per_device);
  if (per_group * static_cast<size_t>(mesh.groups()) <= cpus.size()) {
    const auto begin = cpus.begin() + static_cast<std::ptrdiff_t>(per_group) * group;
    out.cpus.assign(begin, begin + static_cast<std::ptrdiff_t>(per_group));
  }
  return out;
}

}  // namespace fourfold::runtime
