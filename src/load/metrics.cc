#include "load/metrics.h"

#include <algorithm>
#include <limits>

namespace fourfold::load {
namespace {

double milliseconds(int64_t ns) { return static_cast<double>(ns) * 1e-6; }

template <typename Member>
Summary summarize_member(std::span<const RunMetrics> repeats, Member member) {
  std::vector<std::vector<double>> values;
  for (const RunMetrics& run : repeats) {
    if constexpr (std::is_same_v<Member, double RunMetrics::*>) {
      values.push_back({run.*member});
    } else {
      values.push_back(run.*member);
    }
  }
  return summarize(values);
}

}  // namespace

RunMetrics measure(std::span<const RequestLog> requests) {
  RunMetrics out;
  int64_t begin = std::numeric_limits<int64_t>::max();
  int64_t end = std::numeric_limits<int64_t>::min();
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t completed = 0;
  for (const RequestLog& r : requests) {
    begin = std::min(begin, r.sent_ns);
    if (r.failed || r.token_ns.empty()) {
      ++out.failed;
      continue;
    }
    const int64_t first = r.token_ns.front();
    const int64_t last = r.token_ns.back();
    const auto tokens = static_cast<int64_t>(r.token_ns.size());
    end = std::max(end, last);
    ++completed;
    prompt_tokens += r.prompt_tokens;
    output_tokens += tokens;
    out.ttft_ms.push_back(milliseconds(first - r.sent_ns));
    out.e2e_ms.push_back(milliseconds(last - r.sent_ns));
    if (tokens > 1) {
      out.tpot_ms.push_back(milliseconds(last - first) / static_cast<double>(tokens - 1));
    }
    for (size_t i = 1; i < r.token_ns.size(); ++i) {
      out.itl_ms.push_back(milliseconds(r.token_ns[i] - r.token_ns[i - 1]));
    }
  }
  if (completed == 0) return out;
  out.duration_s = static_cast<double>(end - begin) * 1e-9;
  if (out.duration_s > 0) {
    out.output_tok_s = static_cast<double>(output_tokens) / out.duration_s;
    out.total_tok_s = static_cast<double>(output_tokens + prompt_tokens) / out.duration_s;
    out.requests_s = static_cast<double>(completed) / out.duration_s;
  }
  return out;
}

LoadSummary summarize(std::span<const RunMetrics> repeats) {
  LoadSummary out;
  out.ttft_ms = summarize_member(repeats, &RunMetrics::ttft_ms);
  out.tpot_ms = summarize_member(repeats, &RunMetrics::tpot_ms);
  out.itl_ms = summarize_member(repeats, &RunMetrics::itl_ms);
  out.e2e_ms = summarize_member(repeats, &RunMetrics::e2e_ms);
  out.output_tok_s = summarize_member(repeats, &RunMetrics::output_tok_s);
  out.total_tok_s = summarize_member(repeats, &RunMetrics::total_tok_s);
  out.requests_s = summarize_member(repeats, &RunMetrics::requests_s);
  for (const RunMetrics& run : repeats) {
    out.failed += run.failed;
    out.requests += static_cast<int64_t>(run.ttft_ms.size()) + run.failed;
  }
  return out;
}

}  // namespace fourfold::load
