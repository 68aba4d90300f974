#include "measure/offline.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "backend/ops.h"
#include "base/clock.h"
#include "load/run.h"
#include "model/source.h"
#include "runtime/launch/interrupt.h"

namespace fourfold::measure {
namespace {

/// Long enough for a bandwidth that is steady for tens of seconds at a time.
constexpr double kPeaksSeconds = 0.3;

/// What all ranks of a cluster did so far.
struct Work {
  double flops = 0;
  double bytes = 0;
};

/// What all ranks of a cluster can do at most, together.
struct Ceilings {
  double flop_s = 0;
  double bytes_s = 0;

  /// The least time for some work, and what it is made of.
  double seconds(const Work& work) const {
    return std::max(work.flops / flop_s, work.bytes / bytes_s);
  }
  const char* limit(const Work& work) const {
    return work.flops / flop_s > work.bytes / bytes_s ? "peak FLOP/s" : "read bandwidth";
  }
};

/// One pass over the prompts.
struct Pass {
  load::LoadRun run;
  Work work;
};

/// When the last request got its first token, and what came after.
struct DecodeWindow {
  double seconds = 0;
  double tokens = 0;
};

DecodeWindow decode_window(const std::vector<load::RequestLog>& requests) {
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  for (const load::RequestLog& request : requests) {
    begin_ns = std::max(begin_ns, request.chunks.front().at_ns);
    end_ns = std::max(end_ns, request.chunks.back().at_ns);
  }
  DecodeWindow out{.seconds = base::seconds_between(begin_ns, end_ns)};
  for (const load::RequestLog& request : requests) {
    for (const load::TokenChunk& chunk : request.chunks) {
      if (chunk.at_ns > begin_ns) out.tokens += chunk.tokens;
    }
  }
  return out;
}

class Offline {
 public:
  Offline(const OfflineOptions& options, const Progress& progress)
      : options_(options), progress_(progress) {}

  base::Result<std::vector<Figure>> run() {
    FF_TRY(start());
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      for (const int concurrency : options_.concurrencies) {
        progress_(
            fmt::format("concurrency {}: repeat {}/{}", concurrency, repeat + 1, options_.repeats));
        FF_TRY(sample(concurrency, repeat));
        if (runtime::interrupted()) return base::fail("interrupted");
      }
    }
    return std::move(figures_);
  }

 private:
  base::Status start() {
    FF_ASSIGN(const model::ModelSource source, runtime::open_source(options_.cluster));
    vocab_ = source.spec.vocab;
    runtime::ClusterConfig config = options_.cluster;
    const int most =
        *std::max_element(options_.concurrencies.begin(), options_.concurrencies.end());
    config.max_running = std::max(config.max_running, most);
    if (config.max_positions == 0) config.max_positions = options_.input_len + options_.output_len;
    FF_ASSIGN(cluster_, runtime::Cluster::start(config, progress_));
    cluster_->set_numerics(options_.numerics);
    // Touches every weight and buffer once, so that page faults are not measured.
    const auto warm_up = pass(workload(most, 0, 2));
    return warm_up.ok() ? base::Status() : base::Status(warm_up.error());
  }

  std::vector<engine::Request> workload(int requests, int repeat, int32_t output_len) const {
    load::Workload workload =
        load::synthetic_workload({.input_len = options_.input_len,
                                  .output_len = output_len,
                                  .conversations = requests,
                                  .vocab = vocab_,
                                  .seed = options_.seed + static_cast<uint64_t>(repeat)});
    load::set_sampling(workload, options_.sampling);
    return load::make_requests(workload);
  }

  base::Result<Pass> pass(std::vector<engine::Request> requests) {
    cluster_->clear_prefix_cache();
    FF_ASSIGN(const auto before, cluster_->rank_reports());
    const int concurrency = static_cast<int>(requests.size());
    FF_ASSIGN(load::LoadRun run, load::run_load(load::explicit_workload(std::move(requests)),
                                                {.concurrency = concurrency}, clock_,
                                                [this](engine::Request request, load::Sink sink) {
                                                  return send(std::move(request), std::move(sink));
                                                }));
    FF_ASSIGN(const auto after, cluster_->rank_reports());
    Pass out{.run = std::move(run), .work = {}};
    for (size_t i = 0; i < after.size(); ++i) {
      const backend::OpCounters& now = after[i].stats.ops;
      const backend::OpCounters& then = before[i].stats.ops;
      out.work.flops += static_cast<double>(now.matmul_flops - then.matmul_flops +
                                            now.attention_flops - then.attention_flops);
      out.work.bytes += static_cast<double>(now.bytes - then.bytes);
    }
    return out;
  }

  base::Status send(engine::Request request, load::Sink sink) {
    request.id = cluster_->next_id();
    return cluster_->submit(
        std::move(request),
        [sink = std::move(sink)](const engine::SequenceEvent& event, int64_t now_ns) {
          std::vector<engine::TokenId> tokens;
          if (event.token) tokens.push_back(event.token->token);
          sink({.tokens = tokens,
                .finished = event.finish.has_value(),
                .failure = event.failure,
                .now_ns = now_ns});
        });
  }

  base::Result<Ceilings> ceilings() {
    FF_ASSIGN(const auto reports, cluster_->rank_reports(kPeaksSeconds));
    Ceilings out;
    for (const runtime::RankReport& report : reports) {
      out.flop_s += report.stats.peaks.matmul_flop_s;
      out.bytes_s += report.stats.peaks.read_bytes_s;
    }
    return out;
  }

  base::Status sample(int concurrency, int repeat) {
    FF_ASSIGN(const Ceilings before, ceilings());
    FF_ASSIGN(const Pass prefill, pass(workload(concurrency, repeat, 1)));
    FF_ASSIGN(const Pass whole, pass(workload(concurrency, repeat, options_.output_len)));
    FF_ASSIGN(const Ceilings after, ceilings());
    const Ceilings peak{.flop_s = (before.flop_s + after.flop_s) / 2,
                        .bytes_s = (before.bytes_s + after.bytes_s) / 2};
    add(fmt::format("read_bandwidth c{}", concurrency), "GB/s", Better::kHigher, "",
        {.value = peak.bytes_s * 1e-9});
    add(fmt::format("matmul_peak c{}", concurrency), "GFLOP/s", Better::kHigher, "",
        {.value = peak.flop_s * 1e-9});
    add_prefill(concurrency, peak, prefill);
    if (options_.output_len > 1) add_decode(concurrency, peak, prefill, whole);
    return {};
  }

  void add_prefill(int c, const Ceilings& peak, const Pass& prefill) {
    const double least_s = peak.seconds(prefill.work);
    const double tokens = static_cast<double>(c) * options_.input_len;
    const char* limit = peak.limit(prefill.work);
    add(fmt::format("prefill_tok_s c{}", c), "tok/s", Better::kHigher, limit,
        {.value = tokens / prefill.run.metrics.duration_s, .ceiling = tokens / least_s});
    // Sent at once and served one after the other, requests wait for (c + 1) / 2 of them on
    // average.
    add(fmt::format("ttft_ms c{}", c), "ms", Better::kLower, limit,
        {.value = load::mean(prefill.run.metrics.ttft_ms),
         .ceiling = least_s * 1e3 * (c + 1) / (2.0 * c)});
  }

  void add_decode(int c, const Ceilings& peak, const Pass& prefill, const Pass& whole) {
    const Work decode{.flops = whole.work.flops - prefill.work.flops,
                      .bytes = whole.work.bytes - prefill.work.bytes};
    const double least_s = peak.seconds(decode);
    const char* limit = peak.limit(decode);
    const DecodeWindow window = decode_window(whole.run.requests);
    add(fmt::format("decode_tok_s c{}", c), "tok/s", Better::kHigher, limit,
        {.value = window.tokens / window.seconds, .ceiling = window.tokens / least_s});
    const double least_step_ms = least_s * 1e3 / (options_.output_len - 1);
    const load::RunMetrics& metrics = whole.run.metrics;
    add(fmt::format("tpot_ms c{}", c), "ms", Better::kLower, limit,
        {.value = load::mean(metrics.tpot_ms), .ceiling = least_step_ms});
    add(fmt::format("itl_ms c{}", c), "ms", Better::kLower, limit,
        {.value = load::mean(metrics.itl_ms), .ceiling = least_step_ms});
    const double tokens = static_cast<double>(c) * options_.output_len;
    add(fmt::format("output_tok_s c{}", c), "tok/s", Better::kHigher, "prefill and decode",
        {.value = metrics.output_tok_s,
         .ceiling = tokens / (peak.seconds(prefill.work) + least_s)});
  }

  void add(const std::string& name, const char* unit, Better better, const char* limit,
           Sample sample) {
    add_sample(figures_, {.name = name, .unit = unit, .better = better, .limit = limit}, sample);
  }

  const OfflineOptions& options_;
  const Progress& progress_;
  int64_t vocab_ = 0;
  std::unique_ptr<runtime::Cluster> cluster_;
  load::SteadyWaitableClock clock_;
  std::vector<Figure> figures_;
};

}  // namespace

base::Result<std::vector<Figure>> measure_offline(const OfflineOptions& options,
                                                  const Progress& progress) {
  return Offline(options, progress).run();
}

}  // namespace fourfold::measure
