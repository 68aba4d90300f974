#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "load/slo.h"
#include "load/statistics.h"

namespace fourfold::load {

/// Output tokens of one request that the client received at once.
struct TokenChunk {
  int64_t at_ns = 0;
  int32_t tokens = 1;
};

/// When what happened to one request, on one clock.
struct RequestLog {
  int64_t scheduled_ns = 0;  ///< when it was due: sent later, the client is late
  int64_t sent_ns = 0;
  std::vector<TokenChunk> chunks;
  int64_t prompt_tokens = 0;
  /// Of the whole output, where the server has told; else that of the chunks.
  std::optional<int64_t> told_tokens;
  int64_t output_tokens() const;
  bool failed = false;
  std::string failure;  ///< why
};

/// What the requests of one run add up to; definitions() has the sentences. Lists have one value
/// for each finished request (tpot_ms, tok_s_user: of two tokens and more; itl_ms: for each gap
/// between chunks; send_lateness_ms: for every request).
struct RunMetrics {
  std::vector<double> ttft_ms;
  std::vector<double> tpot_ms;
  std::vector<double> itl_ms;
  std::vector<double> e2e_ms;
  std::vector<double> tok_s_user;
  std::vector<double> send_lateness_ms;
  double duration_s = 0;
  double output_tok_s = 0;
  double total_tok_s = 0;
  double requests_s = 0;
  double goodput_rps = 0;  ///< = requests_s where the service level is empty
  int64_t failed = 0;
  /// Why these numbers must not be used: the client did not keep its own schedule. Empty: valid.
  std::string invalid_reason;
  /// capacity_exceeded(): rates are those of the engine at its limit, latencies mean nothing.
  bool saturated = false;

  bool valid() const { return invalid_reason.empty(); }
};

/// How requests became due, which decides what a late client spoils.
enum class Pacing {
  kOpen,    ///< by arrival times
  kClosed,  ///< by places that became free
};

RunMetrics measure(std::span<const RequestLog> requests, const Slo& slo = {},
                   Pacing pacing = Pacing::kOpen);

/// Whether a run meets a service level: it is valid, not saturated, nothing failed, and the
/// percentile of every bounded metric keeps its bound. Errors: an invalid run; too few requests for
/// the percentile.
base::Result<bool> meets(const Slo& slo, const RunMetrics& run);

/// Repeats of one load on one scheme.
struct LoadSummary {
  Summary ttft_ms;
  Summary tpot_ms;
  Summary itl_ms;
  Summary e2e_ms;
  Summary output_tok_s_user;
  Summary output_tok_s;
  Summary total_tok_s;
  Summary requests_s;
  Summary goodput_rps;
  Summary send_lateness_ms;
  int64_t requests = 0;
  int64_t failed = 0;
  std::string invalid_reason;  ///< of the first repeat that is invalid
  /// In one repeat at least. The latencies (TTFT, TPOT, ITL, E2E, per user) are then empty.
  bool saturated = false;
};

LoadSummary summarize(std::span<const RunMetrics> repeats);

/// Name of a metric in reports and JSON -> the sentence that defines it, to be printed beside it.
std::vector<std::pair<std::string, std::string>> definitions();

}  // namespace fourfold::load
