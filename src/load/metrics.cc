#include "load/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "load/capacity.h"

namespace fourfold::load {
namespace {

double milliseconds(int64_t ns) { return static_cast<double>(ns) * 1e-6; }

/// Open loop: a client that sends late offers other arrivals than it says. Up to 10 ms is what the
/// operating system may take to wake a thread on a busy machine, and is small against a TTFT;
/// beyond it, a delay still does not matter while it is small against the gaps between requests.
constexpr double kLatenessFloorMs = 10;
constexpr double kLatenessShareOfGap = 0.1;

std::string open_loop_fault(const std::vector<double>& lateness_ms, double mean_gap_ms) {
  const double bound = std::max(kLatenessFloorMs, kLatenessShareOfGap * mean_gap_ms);
  const double p99 = percentile(lateness_ms, 99);
  if (p99 <= bound) return "";
  return fmt::format(
      "requests were sent too late: p99 {:.1f} ms after their time, at most {:.1f} ms is allowed",
      p99, bound);
}

/// Closed loop: while a client is late a place stands empty, so the concurrency is lower than said,
/// by the share of the time lost. One late request among many does not matter here.
constexpr double kEmptyShare = 0.05;

std::string closed_loop_fault(const std::vector<double>& lateness_ms,
                              const std::vector<double>& e2e_ms) {
  const double empty_ms = std::accumulate(lateness_ms.begin(), lateness_ms.end(), 0.0);
  const double taken_ms = std::accumulate(e2e_ms.begin(), e2e_ms.end(), 0.0);
  if (empty_ms <= kEmptyShare * (empty_ms + taken_ms)) return "";
  return fmt::format(
      "requests were sent too late: places stood empty for {:.1f} % of the time, at most {:.0f} % "
      "is allowed",
      100 * empty_ms / (empty_ms + taken_ms), 100 * kEmptyShare);
}

/// Token counts and the number of good requests, which become rates.
struct Totals {
  int64_t begin_ns = std::numeric_limits<int64_t>::max();
  int64_t end_ns = std::numeric_limits<int64_t>::min();
  int64_t last_sent_ns = std::numeric_limits<int64_t>::min();
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t completed = 0;
  int64_t good = 0;
};

void add_request(const RequestLog& r, const Slo& slo, RunMetrics& out, Totals& totals) {
  const int64_t first_ns = r.chunks.front().at_ns;
  const int64_t last_ns = r.chunks.back().at_ns;
  const int64_t tokens = r.output_tokens();
  const double ttft = milliseconds(first_ns - r.sent_ns);
  const double e2e = milliseconds(last_ns - r.sent_ns);
  double tpot = 0;
  if (tokens > 1) {
    tpot = milliseconds(last_ns - first_ns) / static_cast<double>(tokens - 1);
    out.tpot_ms.push_back(tpot);
    if (tpot > 0) out.tok_s_user.push_back(1e3 / tpot);
  }
  out.ttft_ms.push_back(ttft);
  out.e2e_ms.push_back(e2e);
  for (size_t i = 1; i < r.chunks.size(); ++i) {
    out.itl_ms.push_back(milliseconds(r.chunks[i].at_ns - r.chunks[i - 1].at_ns));
  }
  totals.end_ns = std::max(totals.end_ns, last_ns);
  totals.prompt_tokens += r.prompt_tokens;
  totals.output_tokens += tokens;
  ++totals.completed;
  totals.good += slo.good(ttft, tpot, e2e) ? 1 : 0;
}

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

int64_t RequestLog::output_tokens() const {
  if (told_tokens) return *told_tokens;
  int64_t out = 0;
  for (const TokenChunk& chunk : chunks) out += chunk.tokens;
  return out;
}

RunMetrics measure(std::span<const RequestLog> requests, const Slo& slo, Pacing pacing) {
  RunMetrics out;
  Totals totals;
  std::vector<double> served_lateness_ms;  // of those whose time is known
  for (const RequestLog& r : requests) {
    totals.begin_ns = std::min(totals.begin_ns, r.sent_ns);
    totals.last_sent_ns = std::max(totals.last_sent_ns, r.sent_ns);
    out.send_lateness_ms.push_back(milliseconds(r.sent_ns - r.scheduled_ns));
    if (r.failed || r.chunks.empty()) {
      ++out.failed;
    } else {
      add_request(r, slo, out, totals);
      served_lateness_ms.push_back(out.send_lateness_ms.back());
    }
  }
  if (pacing == Pacing::kClosed) {
    out.invalid_reason = closed_loop_fault(served_lateness_ms, out.e2e_ms);
  } else if (requests.size() > 1) {
    const double span_ms = milliseconds(totals.last_sent_ns - totals.begin_ns);
    out.invalid_reason =
        open_loop_fault(out.send_lateness_ms, span_ms / static_cast<double>(requests.size() - 1));
  }
  out.saturated = capacity_exceeded(requests);
  if (totals.completed == 0) return out;
  out.duration_s = static_cast<double>(totals.end_ns - totals.begin_ns) * 1e-9;
  if (out.duration_s > 0) {
    const auto rate = [&](int64_t count) { return static_cast<double>(count) / out.duration_s; };
    out.output_tok_s = rate(totals.output_tokens);
    out.total_tok_s = rate(totals.output_tokens + totals.prompt_tokens);
    out.requests_s = rate(totals.completed);
    out.goodput_rps = rate(totals.good);
  }
  return out;
}

base::Result<bool> meets(const Slo& slo, const RunMetrics& run) {
  if (!run.valid()) return base::fail("{}", run.invalid_reason);
  if (run.saturated || run.failed > 0) return false;
  bool met = true;
  const auto check = [&](const std::optional<double>& bound,
                         const std::vector<double>& values) -> base::Status {
    if (!bound || values.empty()) return {};
    const std::optional<double> reached = supported_percentile(values, slo.percentile);
    if (!reached) {
      return base::fail("{} requests are too few for the p{} of the service level; send more",
                        values.size(), slo.percentile);
    }
    met = met && *reached <= *bound;
    return {};
  };
  FF_TRY(check(slo.ttft_ms, run.ttft_ms));
  FF_TRY(check(slo.tpot_ms, run.tpot_ms));
  FF_TRY(check(slo.e2e_ms, run.e2e_ms));
  return met;
}

LoadSummary summarize(std::span<const RunMetrics> repeats) {
  LoadSummary out;
  for (const RunMetrics& run : repeats) {
    out.failed += run.failed;
    out.requests += static_cast<int64_t>(run.ttft_ms.size()) + run.failed;
    out.saturated = out.saturated || run.saturated;
    if (out.invalid_reason.empty()) out.invalid_reason = run.invalid_reason;
  }
  out.output_tok_s = summarize_member(repeats, &RunMetrics::output_tok_s);
  out.total_tok_s = summarize_member(repeats, &RunMetrics::total_tok_s);
  out.requests_s = summarize_member(repeats, &RunMetrics::requests_s);
  out.goodput_rps = summarize_member(repeats, &RunMetrics::goodput_rps);
  out.send_lateness_ms = summarize_member(repeats, &RunMetrics::send_lateness_ms);
  if (out.saturated) return out;
  out.ttft_ms = summarize_member(repeats, &RunMetrics::ttft_ms);
  out.tpot_ms = summarize_member(repeats, &RunMetrics::tpot_ms);
  out.itl_ms = summarize_member(repeats, &RunMetrics::itl_ms);
  out.e2e_ms = summarize_member(repeats, &RunMetrics::e2e_ms);
  out.output_tok_s_user = summarize_member(repeats, &RunMetrics::tok_s_user);
  return out;
}

std::vector<std::pair<std::string, std::string>> definitions() {
  return {
      {"ttft_ms",
       "Time to first token: from sending the request to receiving its first output token, as "
       "vllm bench serve and AIPerf have it. Waiting in a queue counts."},
      {"tpot_ms",
       "Time per output token of one request: (last - first token received) / (output tokens - 1), "
       "of requests of two tokens and more; vllm bench serve's TPOT. AIPerf calls the same number "
       "inter-token latency where a first chunk holds one token."},
      {"itl_ms",
       "Inter-token latency: every gap between two receptions of one request, over all requests; "
       "vllm bench serve's ITL and AIPerf's inter-chunk latency. Tokens received together make one "
       "reception."},
      {"e2e_ms", "End to end: from sending the request to receiving its last output token."},
      {"output_tok_s_user",
       "Speed that one user sees: 1000 / TPOT of one request, over all requests; AIPerf's output "
       "token throughput per user. InferenceX's interactivity is 1000 / (mean or percentile of "
       "TPOT), which is never above the mean of this one."},
      {"output_tok_s",
       "Output tokens of all finished requests over the time from the first request sent to the "
       "last token received."},
      {"total_tok_s", "Prompt and output tokens of all finished requests over the same time."},
      {"requests_s", "Finished requests over the same time."},
      {"goodput_rps",
       "Finished requests that keep every bound of the service level (TTFT, TPOT, E2E) over the "
       "same time, as vllm bench serve --goodput; the TPOT of a single token is 0."},
      {"send_lateness_ms",
       "Time at which the client sent a request minus the time at which it was due: its arrival "
       "time, or the moment its place became free, or the end of the turn before it. An open loop "
       "is invalid where the p99 is above 10 ms and above a tenth of the mean gap between "
       "requests, "
       "a closed loop where places stood empty for more than 5 % of the time."},
      {"saturated",
       "Capacity exceeded: the number of unfinished requests grew from the second to the last "
       "quarter of the arrivals, departures fell behind arrivals beyond chance (t test "
       "over nine slices), and requests took ever longer. Latencies of such a run measure its "
       "length and "
       "are not given."},
      {"mean", "Over all requests of all repeats; of a rate, over the repeats."},
      {"p50",
       "Percentiles over all requests of all repeats, linear between the closest ranks "
       "(numpy's default); given only where 100 / (100 - p) values stand behind them."},
      {"ci95",
       "Half the width of the 95 % interval of the mean over the repeats' means (Student's "
       "t)."},
      {"tie",
       "Schemes that the repeats cannot tell from the winner: paired t tests between all schemes "
       "by repeat, with Holm's correction, so that of schemes that are equal any is declared "
       "different in at most 5 % of all rankings."},
  };
}

}  // namespace fourfold::load
