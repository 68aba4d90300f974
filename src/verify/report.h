#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "load/metrics.h"
#include "mesh/mesh.h"
#include "verify/answers.h"
#include "verify/options.h"

namespace fourfold::verify {

/// One axis over the measured runs: means over ranks and repeats.
struct AxisCost {
  double seconds = 0;
  double wait_seconds = 0;
  double bytes = 0;
  double calls = 0;
  double share = 0;  ///< of the measured time
};

/// What one scheme did at one concurrency.
struct LoadResult {
  std::vector<load::RunMetrics> repeats;
  load::LoadSummary summary;
  std::map<mesh::Axis, AxisCost> comm;
  double busy = 0;             ///< seconds in operators over wall time, mean over ranks
  int64_t queried_tokens = 0;  ///< prompt tokens looked up in the prefix cache
  int64_t hit_tokens = 0;      ///< those that needed no computing
  double kv_peak_share = 0;    ///< most blocks used at once, since the scheme was started
  int64_t preemptions = 0;

  double kv_hit_rate() const {
    return queried_tokens == 0
               ? 0.0
               : static_cast<double>(hit_tokens) / static_cast<double>(queried_tokens);
  }
};

struct SchemeResult {
  mesh::ParallelConfig scheme;
  bool legal = true;
  std::string reason;   ///< why not legal
  std::string failure;  ///< why it did not finish, naming rank and stage
  bool timed = false;   ///< false: answers only
  /// Of the fullest device.
  int64_t weight_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t activation_bytes = 0;
  int64_t kv_blocks = 0;  ///< of each replica
  double load_s = 0;
  std::optional<AnswerVerdict> answers;
  std::map<int, LoadResult> loads;  ///< by concurrency

  bool ok() const { return legal && failure.empty() && (!answers || answers->equal); }
};

struct MachineFacts {
  std::string cpu;
  std::string isa;
  int cores = 0;
};

struct VerifyReport {
  VerifyOptions options;
  std::string model_family;
  int64_t parameters = 0;
  std::string backend;
  MachineFacts machine;
  mesh::ParallelConfig baseline;  ///< whose answers the others are compared with
  std::vector<SchemeResult> schemes;

  bool ok() const;
};

/// Who is best at one objective and who cannot be told from it.
struct Winner {
  std::string scheme;
  std::vector<std::string> tie;
};
/// "ttft", "tpot", "throughput" -> winner among the schemes timed at a concurrency.
std::map<std::string, Winner> winners(const VerifyReport& report, int concurrency);

/// A line that says so where `devices` outnumber this machine's cores; empty otherwise.
std::string devices_note(const VerifyReport& report, int devices);

/// The terminal report: answers, one table per concurrency, ranking, how to start the winner.
std::string to_text(const VerifyReport& report);

/// The JSON of docs/verify-json.md, schema 1.
nlohmann::ordered_json to_json(const VerifyReport& report);

/// The machine this runs on.
MachineFacts machine_facts(const std::string& isa);

/// `fourfold` command line that runs a scheme of this report.
std::string start_command(const VerifyReport& report, const mesh::ParallelConfig& scheme);

}  // namespace fourfold::verify
