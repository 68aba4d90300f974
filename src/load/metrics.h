#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "load/statistics.h"

namespace fourfold::load {

/// When what happened to one request, on one clock.
struct RequestLog {
  int64_t sent_ns = 0;
  std::vector<int64_t> token_ns;  ///< arrival of each output token
  int64_t prompt_tokens = 0;
  bool failed = false;
};

/// What the requests of one run add up to. Definitions are those of `vllm bench serve`:
/// TTFT = first token - sent; TPOT = (last - first token) / (tokens - 1), requests of two tokens
/// and more; ITL = every gap between consecutive tokens; E2E = last token - sent; rates over the
/// time from the first request sent to the last token.
struct RunMetrics {
  std::vector<double> ttft_ms;
  std::vector<double> tpot_ms;
  std::vector<double> itl_ms;
  std::vector<double> e2e_ms;
  double duration_s = 0;
  double output_tok_s = 0;
  double total_tok_s = 0;
  double requests_s = 0;
  int64_t failed = 0;
};

RunMetrics measure(std::span<const RequestLog> requests);

/// Repeats of one load on one scheme.
struct LoadSummary {
  Summary ttft_ms;
  Summary tpot_ms;
  Summary itl_ms;
  Summary e2e_ms;
  Summary output_tok_s;
  Summary total_tok_s;
  Summary requests_s;
  int64_t requests = 0;
  int64_t failed = 0;
};

LoadSummary summarize(std::span<const RunMetrics> repeats);

}  // namespace fourfold::load
