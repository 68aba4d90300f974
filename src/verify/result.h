#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "comm/communicator.h"
#include "engine/scheduler.h"
#include "load/capacity.h"
#include "load/metrics.h"
#include "measure/served_answers.h"
#include "mesh/mesh.h"
#include "verify/answers.h"
#include "verify/options.h"

namespace fourfold::verify {

/// What the experts of one layer did in one run.
struct LayerExperts {
  std::vector<int64_t> rows;       ///< that each expert computed
  std::vector<int64_t> rank_rows;  ///< that each rank that holds the layer computed
  int64_t steps = 0;               ///< with rows, of all these ranks
  int64_t distinct = 0;            ///< experts with rows, over these steps

  LayerExperts& operator+=(const LayerExperts& other);
};

/// What all ranks of a scheme together spent on one run of the load.
struct RunCost {
  double wall_s = 0;
  int ranks = 0;
  int64_t steps = 0;
  int64_t fast_steps = 0;                   ///< of them in fast numerics
  int64_t zero_row_steps = 0;               ///< of them for other replicas' rows alone
  std::map<int32_t, LayerExperts> experts;  ///< by layer; none of a dense model
  backend::OpCounters ops;
  std::map<mesh::Axis, comm::CommStats> comm;
};

/// The cache and the queue at one moment of a run.
struct TimelinePoint {
  double seconds = 0;  ///< since the run began
  engine::Occupancy occupancy;
};

/// What one scheme did at one load point, over all repeats.
struct LoadResult {
  std::vector<load::RunMetrics> repeats;
  std::vector<RunCost> costs;  ///< of the same repeats
  load::LoadSummary summary;
  int64_t queried_tokens = 0;  ///< prompt tokens looked up in the prefix cache
  int64_t hit_tokens = 0;      ///< those that needed no computing
  double kv_peak_share = 0;    ///< most blocks used at once in one replica
  int64_t preemptions = 0;
  int64_t skipped_requests = 0;         ///< of a trace, in one repeat: they do not fit the context
  std::vector<TimelinePoint> timeline;  ///< of the last repeat
  /// What the GPU's counters said, one a repeat; none where there is no GPU.
  std::vector<backend::Activity> activity;
  /// Of a server that this program started: cores that its processes kept busy, one a repeat.
  std::vector<double> cpu_cores;

  /// Its latencies mean what they say.
  bool usable() const { return summary.invalid_reason.empty() && !summary.saturated; }
  double kv_hit_rate() const {
    return queried_tokens == 0
               ? 0.0
               : static_cast<double>(hit_tokens) / static_cast<double>(queried_tokens);
  }
};

struct SchemeResult {
  mesh::ParallelConfig scheme;
  /// Of a server that was measured over HTTP: the engine's name. "": this program from inside.
  std::string engine = {};
  std::string label = {};  ///< of servers that ran already, whose scheme nobody knows
  bool legal = true;
  std::string reason;   ///< why not legal
  std::string failure;  ///< why it did not finish, naming rank and stage
  bool timed = false;   ///< false: answers only
  /// Of the fullest device, planned before anything was loaded.
  int64_t weight_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t activation_bytes = 0;
  double balance = 1;      ///< mean over the fullest device's bytes
  int64_t kv_blocks = 0;   ///< of each replica
  int64_t held_bytes = 0;  ///< of the fullest device, as its rank counted them after loading
  /// Requests of the load's length that fit at once if each device has
  /// VerifyReport::device_memory_bytes.
  int64_t max_concurrent_requests = 0;
  double load_s = 0;  ///< of a server until it answered
  /// Of a server's greedy answers, with those of which scheme, and how they compare.
  std::string answers_compared_with = {};
  std::optional<measure::ServedComparison> served_answers;
  std::optional<int64_t> resident_bytes;  ///< most that all processes of a server held
  std::optional<backend::Peaks> peaks;    ///< of all its devices together, measured at once
  std::optional<AnswerVerdict> answers;
  std::optional<Deviation> fast_answers;
  std::optional<double> invariant_cost;  ///< TPOT in invariant over TPOT in fast numerics
  std::map<LoadPoint, LoadResult> loads;
  std::optional<load::RateSearch> slo_rate;  ///< the highest rate within the SLO

  /// "tp2"; of a server "vllm tp2", or its label.
  std::string name() const;
  int64_t planned_bytes() const { return weight_bytes + kv_bytes + activation_bytes; }
  bool ok() const { return legal && failure.empty() && (!answers || answers->equal); }
};

struct MachineFacts {
  std::string cpu;
  std::string isa;
  int cores = 0;    ///< that this process may use
  std::string gpu;  ///< that devices run on; empty: they are cores
  int gpus = 0;     ///< how many of it there are
};

struct VerifyReport {
  VerifyOptions options;
  std::string date;  ///< UTC, ISO 8601
  std::string model_family;
  int64_t parameters = 0;
  bool has_experts = false;
  std::string backend;
  MachineFacts machine;
  int64_t device_memory_bytes = 0;  ///< one device's share of the memory that is free here
  mesh::ParallelConfig baseline;    ///< whose answers the others are compared with
  std::vector<LoadPoint> points;    ///< in the order in which they ran
  std::vector<SchemeResult> schemes;
  /// Somebody ended the run: options.repeats are those that every scheme finished.
  bool interrupted = false;

  bool ok() const;
  /// Measured over HTTP: figures of the engine's inside are not known.
  bool served() const { return !options.engines.empty(); }
  const SchemeResult* find(const mesh::ParallelConfig& scheme,
                           const std::string& engine = {}) const;
};

}  // namespace fourfold::verify
