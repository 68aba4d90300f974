#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "runtime/cluster_config.h"
#include "runtime/group.h"

namespace fourfold::runtime {

/// What one rank of the world did.
struct RankReport {
  int replica = 0;
  mesh::Coordinates at;
  mesh::ExpertCoordinates expert_at;  ///< all 0 in a dense model
  RankMemory memory;
  RankStats stats;
};

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
