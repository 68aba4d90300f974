#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "base/result.h"
#include "load/run.h"
#include "model/source.h"
#include "runtime/cluster.h"
#include "verify/answers.h"
#include "verify/options.h"
#include "verify/result.h"

namespace fourfold::verify {

/// A line of progress: what is running and how far it is.
using Progress = std::function<void(const std::string&)>;

/// The model under measurement.
struct Subject {
  const VerifyOptions& options;
  model::ModelSource source;
  std::shared_ptr<const backend::Ops> ops;
  int32_t max_positions = 0;  ///< that a sequence of the load or of the answers pass needs
};

base::Result<Subject> open_subject(const VerifyOptions& options);

/// How a scheme of this subject is started. `kv_blocks` 0: by the memory options.
runtime::ClusterConfig cluster_config(const Subject& subject, const mesh::ParallelConfig& scheme,
                                      int64_t kv_blocks);

/// One started scheme under measurement. What it finds goes into `result`.
class Session {
 public:
  /// All arguments outlive the session.
  Session(const Subject& subject, SchemeResult& result, const Progress& progress)
      : subject_(subject), result_(result), progress_(progress) {}

  base::Status start();

  /// Invariant numerics, every layer hashed: what proves a layout right.
  base::Result<std::vector<RequestAnswer>> answers();

  /// Compares fast with invariant numerics on the same weights: answers and time per token.
  base::Status compare_numerics();

  /// One run of the load in the options' numerics; the prefix cache is empty at its start.
  base::Status measure(const LoadPoint& point, int repeat);

  /// Searches the highest rate within the SLO.
  base::Status find_rate(double first_rate);

 private:
  using OnToken = std::function<void(size_t request, const engine::SampledToken& token)>;

  void say(const std::string& line) const;
  std::function<void(size_t)> progress_of(std::string label, size_t total) const;
  load::Submit submit_to_cluster(OnToken on_token, AnswerRecorder* recorder);
  base::Result<load::LoadRun> run_closed(std::vector<engine::Request> requests, int concurrency,
                                         OnToken on_token, AnswerRecorder* recorder,
                                         const std::string& label);
  base::Result<std::vector<RequestAnswer>> greedy_answers(base::Numerics numerics,
                                                          std::vector<double>& tpot_ms);
  base::Result<load::Workload> prepare(const LoadPoint& point, int repeat);
  base::Result<load::LoadRun> run_point(const LoadPoint& point, int repeat,
                                        const load::Workload& workload);
  base::Status warm_up(engine::Request request);
  void add_costs(LoadResult& load, double wall_s, const std::vector<runtime::RankReport>& before,
                 const std::vector<runtime::RankReport>& after) const;
  void add_cache_stats(LoadResult& load, const engine::EngineStats& before,
                       const engine::EngineStats& after) const;

  const Subject& subject_;
  SchemeResult& result_;
  const Progress& progress_;
  load::SteadyWaitableClock clock_;
  std::unique_ptr<runtime::Cluster> cluster_;
};

}  // namespace fourfold::verify
