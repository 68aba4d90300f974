#pragma once

#include <vector>

#include "verify/result.h"

namespace fourfold::verify {

/// One finished run with the same value for every request.
inline load::RunMetrics run_of(double ttft_ms, double tpot_ms, double output_tok_s) {
  load::RunMetrics run;
  run.ttft_ms = {ttft_ms};
  run.tpot_ms = {tpot_ms};
  run.itl_ms = {tpot_ms};
  run.e2e_ms = {ttft_ms + tpot_ms};
  run.tok_s_user = {1000 / tpot_ms};
  run.duration_s = 1;
  run.output_tok_s = output_tok_s;
  run.total_tok_s = 2 * output_tok_s;
  run.requests_s = 1;
  run.goodput_rps = 1;
  return run;
}

/// A timed scheme of a report with equal answers and 1000 bytes of weights a layer shard.
inline SchemeResult scheme_of(const mesh::ParallelConfig& config) {
  SchemeResult r{.scheme = config, .timed = true};
  r.weight_bytes = 1000 / (config.tp * config.pp);
  r.answers = AnswerVerdict{.equal = true, .equal_token_share = 1, .compared_hashes = 5};
  r.peaks = backend::Peaks{.matmul_flop_s = 1000.0 * config.devices(),
                           .read_bytes_s = 100.0 * config.devices()};
  return r;
}

/// Adds repeats at a point. `tp_seconds` of each second a rank is inside TP communication, half of
/// it waiting; 0.6 s it computes.
inline void add_runs(SchemeResult& r, const LoadPoint& point, std::vector<load::RunMetrics> runs,
                     double tp_seconds = 0) {
  LoadResult& load = r.loads[point];
  for (load::RunMetrics& run : runs) {
    RunCost cost{.wall_s = 1, .ranks = r.scheme.devices()};
    cost.ops = {.matmul_flops = 300 * r.scheme.devices(),
                .attention_flops = 100 * r.scheme.devices(),
                .bytes = 50 * r.scheme.devices(),
                .seconds = 0.6 * r.scheme.devices()};
    if (tp_seconds > 0) {
      cost.comm[mesh::Axis::kTensor] = {.seconds = tp_seconds * cost.ranks,
                                        .wait_seconds = tp_seconds / 2 * cost.ranks,
                                        .bytes = 10,
                                        .calls = 2};
    }
    load.costs.push_back(cost);
    load.repeats.push_back(std::move(run));
  }
  load.summary = load::summarize(load.repeats);
}

/// A report of these schemes, the first of which is the baseline, on a machine with `cores`.
inline VerifyReport report_of(std::vector<SchemeResult> schemes, int cores) {
  VerifyReport report;
  report.machine = {.cpu = "test", .isa = "test", .cores = cores};
  report.baseline = schemes.front().scheme;
  for (const auto& [point, load] : schemes.front().loads) report.points.push_back(point);
  report.schemes = std::move(schemes);
  return report;
}

inline constexpr LoadPoint kOne{.concurrency = 1};
inline constexpr LoadPoint kEight{.concurrency = 8};
inline constexpr LoadPoint kSixteen{.concurrency = 16};

}  // namespace fourfold::verify
