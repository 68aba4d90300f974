#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "base/result.h"
#include "engine/executor.h"
#include "engine/scheduler.h"
#include "mesh/mesh.h"
#include "model/source.h"
#include "runtime/group_executor.h"
#include "runtime/restart_delays.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// A model served by one scheme on this machine.
struct ClusterConfig {
  std::string model;
  bool dummy_weights = false;
  uint64_t dummy_seed = 0;
  model::DummyRouting dummy_routing;  ///< of dummy weights with experts
  mesh::ParallelConfig scheme;
  mesh::ExpertPlacement expert_placement;
  model::ExchangeKind expert_exchange = model::ExchangeKind::kAuto;
  std::string backend = "cpu";
  std::string isa;          ///< empty: the strongest here
  int cpus_per_device = 1;  ///< threads of one rank
  RankMode ranks = RankMode::kProcesses;
  std::string program;  ///< the fourfold that rank processes run; empty: this program

  int32_t block_size = 16;
  int64_t kv_bytes = 0;   ///< per device; 0: what max_running sequences need, within a quarter of
                          ///< the available memory or, on a GPU, within gpu_memory_share
  int64_t kv_blocks = 0;  ///< per replica; 0: by kv_bytes
  /// Of a GPU's free memory, that weights, activations and KV cache of all its ranks may take.
  double gpu_memory_share = 0.9;
  int32_t max_positions = 0;  ///< longest sequence; 0: the model's context
  int32_t max_running = 256;  ///< sequences a replica runs at once
  int32_t depth = 0;          ///< steps in flight; 0: pp + 1
  engine::SchedulerOptions scheduler;
  /// A group that fails is started again, and its sequences go on elsewhere or there. Otherwise
  /// they end with kFailed and it stays as it is: for whoever measures, a failed group is a failed
  /// run.
  std::optional<RestartOptions> restart;
};

/// How many GPUs of this machine ranks may take: threads of one process share one.
int usable_gpus(const ClusterConfig& config, const backend::Ops& ops);
/// How many of them the ranks take in turn.
int gpus_of(const ClusterConfig& config, const backend::Ops& ops);

/// The model that it serves. Errors: those of model::open_model, and a placement or an exchange of
/// experts for a dense one.
base::Result<model::ModelSource> open_source(const ClusterConfig& config);

/// The limits every group of the cluster gets. Errors: a KV pool that cannot hold one sequence, a
/// context longer than the model's.
base::Result<engine::ExecutorLimits> plan_limits(const ClusterConfig& config,
                                                 const model::ModelSpec& spec,
                                                 const backend::Ops& ops);

/// Bytes of each rank of one group (mesh::Mesh::group_size), by rank; exact, before anything is
/// loaded. The scheme is legal for the model.
std::vector<RankMemory> plan_memory(const ClusterConfig& config, const model::ModelSpec& spec,
                                    const backend::Ops& ops, const engine::ExecutorLimits& limits);

/// The ranks of one group of the scheme, which is legal for the model: its dp is the replicas that
/// step together.
mesh::ParallelConfig group_config(const mesh::Mesh& mesh);

/// What the ranks of group `group` are told. `gpus`: gpus_of().
RankConfig rank_config(const ClusterConfig& config, const mesh::Mesh& mesh,
                       const engine::ExecutorLimits& limits, int gpus, int group);

}  // namespace fourfold::runtime
