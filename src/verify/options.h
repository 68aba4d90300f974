#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adapter/engine.h"
#include "base/numerics.h"
#include "load/slo.h"
#include "load/trace.h"
#include "mesh/mesh.h"
#include "runtime/cluster.h"

namespace fourfold::verify {

/// One setting of the load: a closed loop at a concurrency, or an open loop at a rate.
struct LoadPoint {
  int concurrency = 0;  ///< 0: an open loop
  double rate = 0;      ///< requests/s of an open loop

  /// "c8" or "2.5/s".
  std::string name() const;
  /// The point whose concurrency or rate is smaller by devices / baseline devices; nothing where
  /// that is no whole number of requests.
  std::optional<LoadPoint> divided(int devices, int baseline_devices) const;
  auto operator<=>(const LoadPoint&) const = default;
};

/// A recorded trace to replay.
struct TraceOptions {
  std::string path;
  load::Trace trace;
  double length_scale = 1;
  bool skip_too_long = false;
};

/// What to verify and under which load.
struct VerifyOptions {
  runtime::ClusterConfig cluster;             ///< everything but the scheme
  int devices = 0;                            ///< of each scheme, where `schemes` does not say
  std::vector<mesh::ParallelConfig> schemes;  ///< to prove and to time
  std::vector<mesh::ParallelConfig> answer_only_schemes;  ///< to prove, not to time
  base::Numerics numerics = base::Numerics::kFast;        ///< of what is timed

  int32_t input_len = 64;
  int32_t output_len = 32;
  int32_t shared_prefix = 0;  ///< tokens that all prompts begin with
  int32_t turns = 1;          ///< requests of one conversation
  std::vector<int> concurrencies = {1, 8};
  bool sweep = false;         ///< double the concurrency until the throughput stops growing
  std::vector<double> rates;  ///< not empty: open loops instead of the concurrencies
  double burstiness = 1;
  std::optional<TraceOptions> trace;
  load::Slo slo;
  bool find_rate = false;  ///< search the highest rate within the SLO

  int32_t requests = 0;  ///< per load point and repeat; 0: requests_at() chooses
  int repeats = 3;
  uint64_t seed = 0;
  engine::SamplingParams sampling{.temperature =
                                      0};  ///< of the timed load; seeds are made of `seed`
  std::string command;                     ///< as typed, for the report

  /// Not empty: these are measured over HTTP, instead of this program's engine from inside.
  std::vector<adapter::EngineOptions> engines = {};
  /// Starts of each scheme of an engine, over which the repeats are spread.
  int rounds = 1;
};

/// "closed", "poisson", "gamma" or "trace".
std::string load_kind(const VerifyOptions& options);

/// Conversations of one run at a load point.
int32_t requests_at(const VerifyOptions& options, const LoadPoint& point);

}  // namespace fourfold::verify
