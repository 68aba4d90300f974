#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/executor.h"
#include "mesh/mesh.h"
#include "model/source.h"
#include "runtime/group_executor.h"
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
};

/// How many GPUs of this machine ranks may take: threads of one process share one.
int usable_gpus(const ClusterConfig& config, const backend::Ops& ops);

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

/// What one rank of the world did.
struct RankReport {
  int replica = 0;
  mesh::Coordinates at;
  mesh::ExpertCoordinates expert_at;  ///< all 0 in a dense model
  RankMemory memory;
  RankStats stats;
};

/// A group as its engine left it after its latest step.
struct GroupStatus {
  engine::Occupancy occupancy;
  engine::EngineStats stats;
  std::string failure;  ///< empty: it lives
  /// How long it has had work and finished no step; 0 without work.
  int64_t without_step_ns = 0;
};

/// Events of one request, called on an engine thread; must not block.
using EventSink = std::function<void(const engine::SequenceEvent& event, int64_t now_ns)>;

/// All groups of a scheme with their engines, one thread each, and the choice among replicas.
/// Thread-safe.
class Cluster {
 public:
  /// Starts every group and waits until all ranks have loaded.
  static base::Result<std::unique_ptr<Cluster>> start(const ClusterConfig& config,
                                                      const StartProgress& progress);
  virtual ~Cluster() = default;

  /// An id that no request of this cluster has.
  virtual engine::SequenceId next_id() = 0;
  /// Queues a request on the living group that engine::choose_replica() names and returns at once;
  /// what that group's prefix cache holds is guessed from the prompts sent there. Events of all the
  /// request's sequences go to `sink`. A request that can never fit ends with kFailed. Errors:
  /// every group has failed.
  virtual base::Status submit(engine::Request request, EventSink sink) = 0;
  virtual void cancel(engine::SequenceId id) = 0;

  /// Traces every step from now on and tells `observer` of each, on engine threads; null: no more.
  virtual void trace(engine::StepObserver observer) = 0;
  /// Numerics of every step from now on; clears the prefix cache.
  virtual void set_numerics(base::Numerics numerics) = 0;
  virtual void clear_prefix_cache() = 0;
  /// Counters of all engines since the start.
  virtual engine::EngineStats engine_stats() = 0;
  /// Of each group; never waits for a step.
  virtual std::vector<GroupStatus> status() = 0;
  /// How full all replicas were after their latest steps; never waits for a step.
  engine::Occupancy occupancy();
  /// Of every rank; only while no request is running. With `peaks_s` > 0 all ranks measure their
  /// peaks first, at the same time, for so many seconds.
  virtual base::Result<std::vector<RankReport>> rank_reports(double peaks_s = 0) = 0;
  virtual const engine::ExecutorLimits& limits() const = 0;
};

}  // namespace fourfold::runtime
