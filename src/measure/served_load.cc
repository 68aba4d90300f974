#include "measure/served_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "load/arrivals.h"
#include "load/run.h"
#include "load/statistics.h"
#include "measure/endpoint.h"
#include "model/source.h"
#include "runtime/launch/interrupt.h"

namespace fourfold::measure {
namespace {

using nlohmann::ordered_json;

struct NamedValues {
  const char* key;
  const char* title;
  const std::vector<double>& values;
};

std::vector<NamedValues> latencies(const load::RunMetrics& m) {
  return {{"ttft", "time to first token", m.ttft_ms},
          {"tpot", "time per output token", m.tpot_ms},
          {"itl", "inter-token latency", m.itl_ms},
          {"e2el", "end to end", m.e2e_ms}};
}

/// Of the values themselves, not of a sample's population: numpy's default, so vLLM's.
double standard_deviation(const std::vector<double>& values) {
  const double mean = load::mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

void add_latency(ordered_json& out, const NamedValues& latency) {
  const auto put = [&](const std::string& what, double value) {
    out[fmt::format("{}_{}_ms", what, latency.key)] = value;
  };
  if (latency.values.empty()) {
    for (const char* what : {"mean", "median", "std", "p50", "p90", "p99"}) put(what, 0);
    return;
  }
  put("mean", load::mean(latency.values));
  put("median", load::percentile(latency.values, 50));
  put("std", standard_deviation(latency.values));
  for (const int p : {50, 90, 99}) put(fmt::format("p{}", p), load::percentile(latency.values, p));
}

/// Of the requests that were completed.
struct Tokens {
  int64_t input = 0;
  int64_t output = 0;
};

bool completed(const load::RequestLog& request) {
  return !request.failed && !request.chunks.empty();
}

Tokens tokens_of(const ServedLoad& run) {
  Tokens out;
  for (const load::RequestLog& r : run.requests) {
    if (!completed(r)) continue;
    out.input += r.prompt_tokens;
    out.output += r.output_tokens();
  }
  return out;
}

/// Completed requests of whose output nobody told the number of tokens.
int64_t untold_requests(const ServedLoad& run) {
  return std::count_if(run.requests.begin(), run.requests.end(),
                       [](const load::RequestLog& r) { return completed(r) && !r.told_tokens; });
}

double rate(const ServedLoad& run, int64_t count) {
  return run.wall_s > 0 ? static_cast<double>(count) / run.wall_s : 0;
}

/// What the busiest whole second since the start had, as vLLM counts.
struct Busiest {
  int64_t chunks = 0;    ///< that came in it
  int64_t requests = 0;  ///< that were outstanding in any part of it
};

Busiest busiest_seconds(const std::vector<load::RequestLog>& requests, int64_t first_ns) {
  constexpr int64_t kSecond = 1'000'000'000;
  std::map<int64_t, Busiest> seconds;
  for (const load::RequestLog& r : requests) {
    if (!completed(r)) continue;
    for (const load::TokenChunk& chunk : r.chunks) {
      ++seconds[(chunk.at_ns - first_ns) / kSecond].chunks;
    }
    const int64_t last = (r.chunks.back().at_ns - first_ns) / kSecond;
    for (int64_t s = (r.sent_ns - first_ns) / kSecond; s <= last; ++s) ++seconds[s].requests;
  }
  Busiest out;
  for (const auto& [second, counts] : seconds) {
    out.chunks = std::max(out.chunks, counts.chunks);
    out.requests = std::max(out.requests, counts.requests);
  }
  return out;
}

std::string rate_name(double rate) { return rate > 0 ? fmt::format("{}", rate) : "inf"; }

}  // namespace

base::Result<ServedLoad> measure_served(const ServedLoadOptions& options,
                                        const std::string& vocabulary_of,
                                        const Progress& progress) {
  Endpoint endpoint(options.url, options.api_key);
  ServedLoad out{
      .model = options.model, .vocabulary_of = vocabulary_of, .requests = {}, .metrics = {}};
  if (out.model.empty()) {
    FF_ASSIGN(out.model, endpoint.first_model());
  }
  if (out.vocabulary_of.empty()) out.vocabulary_of = out.model;
  const auto source = model::open_model(out.vocabulary_of, /*dummy_weights=*/true, 0);
  if (!source.ok()) {
    return base::fail(
        "prompts are drawn from a model's vocabulary, and \"{}\" cannot be opened ({}): give "
        "MODEL, a folder, GGUF file, built-in name or preset",
        out.vocabulary_of, source.error().message);
  }
  const auto workload = [&](int requests, uint64_t seed) {
    return load::synthetic_workload({.input_len = options.input_len,
                                     .output_len = options.output_len,
                                     .conversations = requests,
                                     .vocab = source->spec.vocab,
                                     .seed = seed});
  };
  load::SteadyWaitableClock clock;
  const load::Submit submit = [&](const engine::Request& request, load::Sink sink) {
    return endpoint.submit(out.model, request, std::move(sink));
  };
  progress("warming up");
  load::RunOptions run{.concurrency = 1, .stop = [] { return runtime::interrupted(); }};
  FF_TRY(load::run_load(workload(1, ~options.seed), run, clock, submit));
  const load::Workload load = workload(options.requests, options.seed);
  run.count_failures = true;
  run.on_finished = [&](size_t done) {
    progress(fmt::format("requests: {}/{}", done, options.requests));
  };
  run.concurrency = options.concurrency;
  if (options.concurrency == 0) {
    run.arrivals_s =
        options.rate > 0
            ? load::draw_arrivals(
                  load.requests.size(),
                  {.rate = options.rate, .burstiness = options.burstiness, .seed = options.seed})
            : std::vector<double>(load.requests.size());
  }
  FF_ASSIGN(load::LoadRun result, load::run_load(load, run, clock, submit));
  out.requests = std::move(result.requests);
  out.wall_s = result.wall_s;
  out.metrics = std::move(result.metrics);
  return out;
}

ordered_json vllm_result(const ServedLoadOptions& options, const ServedLoad& run,
                         const std::string& date) {
  const load::RunMetrics& m = run.metrics;
  int64_t first_ns = std::numeric_limits<int64_t>::max();
  for (const load::RequestLog& r : run.requests) first_ns = std::min(first_ns, r.sent_ns);
  const Tokens tokens = tokens_of(run);
  ordered_json input_lens = ordered_json::array();
  ordered_json output_lens = ordered_json::array();
  ordered_json ttfts = ordered_json::array();
  ordered_json itls = ordered_json::array();
  ordered_json all_latencies = ordered_json::array();
  ordered_json start_times = ordered_json::array();
  ordered_json errors = ordered_json::array();
  for (const load::RequestLog& r : run.requests) {
    const bool done = completed(r);
    input_lens.push_back(r.prompt_tokens);
    output_lens.push_back(done ? r.output_tokens() : 0);
    const auto seconds = [&](int64_t from_ns, int64_t to_ns) {
      return static_cast<double>(to_ns - from_ns) * 1e-9;
    };
    ttfts.push_back(done ? seconds(r.sent_ns, r.chunks.front().at_ns) : 0);
    all_latencies.push_back(done ? seconds(r.sent_ns, r.chunks.back().at_ns) : 0);
    start_times.push_back(seconds(first_ns, r.sent_ns));
    errors.push_back(r.failure);
    ordered_json gaps = ordered_json::array();
    for (size_t i = 1; done && i < r.chunks.size(); ++i) {
      gaps.push_back(seconds(r.chunks[i - 1].at_ns, r.chunks[i].at_ns));
    }
    itls.push_back(std::move(gaps));
  }
  const Busiest busiest = busiest_seconds(run.requests, first_ns);
  ordered_json out = {
      {"date", date},
      {"endpoint_type", "openai"},
      {"backend", "openai"},
      {"label", nullptr},
      {"model_id", run.model},
      {"tokenizer_id", run.vocabulary_of},
      {"num_prompts", std::ssize(run.requests)},
      {"request_rate", options.rate > 0 ? ordered_json(options.rate) : ordered_json("inf")},
      {"burstiness", options.burstiness},
      {"max_concurrency",
       options.concurrency > 0 ? ordered_json(options.concurrency) : ordered_json()},
      {"duration", run.wall_s},
      {"completed", std::ssize(m.ttft_ms)},
      {"failed", m.failed},
      {"total_input_tokens", tokens.input},
      {"total_output_tokens", tokens.output},
      {"request_throughput", rate(run, std::ssize(m.ttft_ms))},
      {"request_goodput", nullptr},
      {"output_throughput", rate(run, tokens.output)},
      {"total_token_throughput", rate(run, tokens.input + tokens.output)},
      {"input_lens", std::move(input_lens)},
      {"output_lens", std::move(output_lens)},
      {"ttfts", std::move(ttfts)},
      {"itls", std::move(itls)},
      {"latencies", std::move(all_latencies)},
      {"start_times", std::move(start_times)},
      {"errors", std::move(errors)},
      {"invalid_reason", m.invalid_reason},
      {"requests_without_usage", untold_requests(run)},
      {"max_output_tokens_per_s", static_cast<double>(busiest.chunks)},
      {"max_concurrent_requests", busiest.requests}};
  for (const NamedValues& latency : latencies(m)) add_latency(out, latency);
  return out;
}

std::string to_text(const ServedLoadOptions& options, const ServedLoad& run) {
  const load::RunMetrics& m = run.metrics;
  const Tokens tokens = tokens_of(run);
  std::string out = fmt::format(
      "{} at {}: {} requests of {} + {} tokens, {}, rate {}/s\n\n"
      "  completed           {:>12}\n  failed              {:>12}\n"
      "  duration            {:>12.2f} s\n  requests            {:>12.3f} /s\n"
      "  output tokens       {:>12.1f} /s\n  all tokens          {:>12.1f} /s\n\n"
      "  {:<22}{:>10}{:>10}{:>10}{:>10}  ms\n",
      run.model, options.url.authority(), run.requests.size(), options.input_len,
      options.output_len,
      options.concurrency > 0 ? fmt::format("{} at once", options.concurrency)
                              : "as many at once as arrive",
      rate_name(options.rate), m.ttft_ms.size(), m.failed, run.wall_s,
      rate(run, std::ssize(m.ttft_ms)), rate(run, tokens.output),
      rate(run, tokens.input + tokens.output), "", "mean", "p50", "p90", "p99");
  for (const NamedValues& latency : latencies(m)) {
    out += fmt::format("  {:<22}", latency.title);
    if (latency.values.empty()) {
      out += fmt::format("{:>10}\n", "-");
      continue;
    }
    out += fmt::format("{:>10.2f}", load::mean(latency.values));
    for (const int p : {50, 90, 99}) {
      const auto value = load::supported_percentile(latency.values, p);
      out += value ? fmt::format("{:>10.2f}", *value) : fmt::format("{:>10}", "-");
    }
    out += "\n";
  }
  if (const int64_t untold = untold_requests(run); untold > 0) {
    out += fmt::format(
        "\nThe server told no usage for {} requests: their tokens are counted by chunks of the "
        "stream, each at least one, so that tokens/s may be too low and TPOT too high.\n",
        untold);
  }
  const auto failed = std::find_if(run.requests.begin(), run.requests.end(),
                                   [](const load::RequestLog& r) { return r.failed; });
  if (failed != run.requests.end()) out += "\nThe first that failed: " + failed->failure + "\n";
  if (!m.valid()) out += fmt::format("\nThese figures must not be used: {}\n", m.invalid_reason);
  return out;
}

}  // namespace fourfold::measure
