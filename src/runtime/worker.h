#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/ops.h"
#include "base/result.h"
#include "comm/communicator.h"
#include "comm/waiting.h"
#include "engine/executor.h"
#include "engine/step.h"
#include "mesh/mesh.h"
#include "mesh/placement.h"
#include "model/dummy_routing.h"
#include "model/exchange.h"
#include "model/experts.h"

namespace fourfold::runtime {

/// Everything that a rank has to know to build its share of a model. A plain value: it travels to
/// worker processes as JSON.
struct RankConfig {
  std::string model;  ///< folder, GGUF file, built-in name or preset
  bool dummy_weights =
      false;  ///< deterministic random weights from dummy_seed instead of the file's
  uint64_t dummy_seed = 0;
  model::DummyRouting dummy_routing;  ///< of dummy weights with experts
  mesh::ParallelConfig group;  ///< of one group: dp is the lockstep replicas, 1 for dense models
  std::string backend = "cpu";
  std::string isa;  ///< empty: the strongest here
  int threads = 1;  ///< of this rank's device
  /// GPUs of this machine that the ranks of the scheme take in turn, by their numbers there; 0 on a
  /// backend that has none.
  int gpus = 0;
  std::vector<int> cpus;  ///< per rank of the group, threads entries each; empty: not pinned
  engine::ExecutorLimits limits;
  mesh::ExpertPlacement expert_placement;
  model::ExchangeKind expert_exchange = model::ExchangeKind::kAuto;
  int groups = 1;       ///< of the scheme
  int group_index = 0;  ///< of this one among them
  int restarts = 0;     ///< of this group before this life

  /// Each rank of the scheme has a GPU to itself.
  bool has_own_gpus() const { return gpus >= group.devices() * groups; }
  /// Ranks are pinned where each has cores of its own.
  comm::Waiting waiting() const {
    return cpus.empty() ? comm::Waiting::kSleep : comm::Waiting::kSpin;
  }
};

/// The number of rank `rank` of the group among all ranks of the scheme.
int world_rank(const RankConfig& config, int rank);
/// The GPU that it takes; 0 where there is none.
int gpu_of(const RankConfig& config, int rank);
/// Its number and place in the scheme: "rank 3 (stage 1, replica 0, shard 1)".
std::string describe_rank(const RankConfig& config, int rank);

/// What loading took and what the rank holds.
struct RankMemory {
  int64_t weight_bytes = 0;     ///< this rank's shard, in the backend's layout
  int64_t file_bytes_read = 0;  ///< of the checkpoint
  int64_t kv_bytes = 0;
  int64_t activation_bytes = 0;  ///< arena, rotary tables and step inputs
  double load_s = 0;
  double prepare_s = 0;  ///< after that, making steps ready
};

/// What a rank did since it was built.
struct RankStats {
  int64_t steps = 0;
  int64_t fast_steps = 0;  ///< of them in fast numerics
  /// Of them those in which the rank's replica had no row, but another one that shares its experts.
  int64_t zero_row_steps = 0;
  int64_t rows = 0;
  backend::OpCounters ops;
  /// Of each axis. mesh::Axis::kControl is the talk with the front: `wait_seconds` are those in
  /// which the rank had no step to run, `seconds` adds those of handing over reports; `calls` are
  /// steps taken and reports given, `bytes` all frames both ways (none between threads).
  std::vector<std::pair<mesh::Axis, comm::CommStats>> comm;
  model::ExpertStats experts;
  int64_t peak_rss_bytes = 0;
  backend::Peaks peaks;  ///< of this rank's threads; 0 where they were not asked for
};

/// A stage's part of a step's output, made by shard 0 of each stage: the last stage has the sampled
/// tokens, each stage the traces of its layers.
struct StageReport {
  engine::StepId step;
  int stage = 0;
  engine::StepOutput output;
};

/// Bytes of the packed inputs of the largest step.
int64_t step_input_bytes(const engine::ExecutorLimits& limits);

/// One rank: its shard of the weights, its KV blocks, its communicators, and the step loop's body.
/// Used by one thread.
class Worker {
 public:
  virtual ~Worker() = default;

  /// Loads the shard of rank `group->rank()`. `group` holds all ranks of the group in mesh order;
  /// its progress, if it has one, is told how far the rank is from here on.
  /// Collective: all ranks of the group create their workers.
  static base::Result<std::unique_ptr<Worker>> create(const RankConfig& config,
                                                      std::shared_ptr<const backend::Ops> ops,
                                                      std::unique_ptr<comm::Communicator> group);

  /// Begins one step, one batch per replica of the block. All ranks of the group begin the same
  /// steps in the same order. A replica without rows serves the experts of the others; without any
  /// row nothing runs. Throws comm::CommAborted if the group is gone.
  virtual void begin(const std::vector<engine::StepBatch>& batches) = 0;
  /// The report of the oldest step that was begun and not finished, when it is done.
  virtual StageReport finish() = 0;
  /// Steps that may be begun before the oldest of them is finished: 1 where begin() does the work,
  /// more where a device does it meanwhile.
  virtual int depth() const { return 1; }

  /// True where finish()'s report has to reach the front: shard 0 of each stage.
  virtual bool reports() const = 0;
  virtual RankMemory memory() const = 0;
  /// Of all steps, which are finished. With `peaks_s` > 0 it measures the peaks for so many seconds
  /// first. Errors: those of Ops::measure_peaks.
  virtual base::Result<RankStats> stats(double peaks_s) = 0;
};

}  // namespace fourfold::runtime
