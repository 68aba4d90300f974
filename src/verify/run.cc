#include "verify/run.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "backend/ops.h"
#include "base/clock.h"
#include "base/philox.h"
#include "load/workload.h"
#include "model/source.h"
#include "model/weights.h"
#include "runtime/cluster.h"
#include "runtime/launch/interrupt.h"

namespace fourfold::verify {
namespace {

/// The pass that proves answers: half of the requests greedy, half with a seed.
constexpr int32_t kAnswerRequests = 8;
constexpr int32_t kAnswerInput = 20;
constexpr int32_t kAnswerOutput = 24;
constexpr int32_t kWarmUpTokens = 4;

struct Subject {
  const VerifyOptions& options;
  model::ModelSource source;
  std::shared_ptr<const backend::Ops> ops;
};

base::Result<Subject> open_subject(const VerifyOptions& options) {
  FF_ASSIGN(model::ModelSource source,
            model::open_model(options.cluster.model, options.cluster.dummy_weights,
                              options.cluster.dummy_seed));
  FF_ASSIGN(std::shared_ptr<const backend::Ops> ops,
            backend::make_ops(options.cluster.backend, options.cluster.isa));
  return Subject{options, std::move(source), std::move(ops)};
}

/// Tokens of the pass that proves answers: it has to fit the model's context, as the load has.
struct AnswerLengths {
  int32_t input = kAnswerInput;
  int32_t output = kAnswerOutput;
};
AnswerLengths answer_lengths(const model::ModelSpec& spec) {
  AnswerLengths out;
  if (spec.max_positions < out.input + out.output) {
    out.input = static_cast<int32_t>(std::max<int64_t>(1, spec.max_positions / 2));
    out.output = static_cast<int32_t>(std::max<int64_t>(1, spec.max_positions - out.input));
  }
  return out;
}

base::Status check_load(const VerifyOptions& options) {
  const int64_t tokens = int64_t{options.input_len} + options.output_len;
  const int64_t limit = options.cluster.max_positions > 0
                            ? int64_t{options.cluster.max_positions}
                            : int64_t{std::numeric_limits<int32_t>::max()};
  if (tokens <= limit) return {};
  return base::fail("--input-len {} and --output-len {} are {} tokens, more than {} {}",
                    options.input_len, options.output_len, tokens,
                    options.cluster.max_positions > 0 ? "--max-model-len" : "can be counted",
                    limit);
}

runtime::ClusterConfig cluster_config(const Subject& subject, const mesh::ParallelConfig& scheme,
                                      int64_t kv_blocks) {
  const VerifyOptions& options = subject.options;
  runtime::ClusterConfig config = options.cluster;
  config.scheme = scheme;
  const AnswerLengths answers = answer_lengths(subject.source.spec);
  config.max_positions = std::max({config.max_positions, options.input_len + options.output_len,
                                   answers.input + answers.output});
  const int most = *std::max_element(options.concurrencies.begin(), options.concurrencies.end());
  config.max_running = std::min(config.max_running, std::max(most, kAnswerRequests));
  if (config.kv_blocks == 0) config.kv_blocks = kv_blocks;
  return config;
}

std::vector<engine::Request> answer_requests(const Subject& subject) {
  std::vector<engine::Request> requests = load::make_requests({.input_len = kAnswerInput,
                                                               .output_len = kAnswerOutput,
                                                               .requests = kAnswerRequests,
                                                               .vocab = subject.source.spec.vocab,
                                                               .seed = subject.options.seed});
  for (size_t i = 0; i < requests.size(); ++i) {
    // Lengths differ, so that rows of a batch are at different positions.
    requests[i].prompt.resize(std::max<size_t>(
        1, requests[i].prompt.size() - std::min(i, requests[i].prompt.size() - 1)));
    if (i % 2 == 1) {
      requests[i].sampling.temperature = 1.0F;
      requests[i].sampling.top_p = 0.95F;
      requests[i].sampling.seed = subject.options.seed + i;
    }
  }
  return requests;
}

/// The one-device scheme, or the legal one with the fewest devices where one does not exist here.
mesh::ParallelConfig baseline_of(const VerifyReport& report) {
  const auto fewest = std::min_element(report.schemes.begin(), report.schemes.end(),
                                       [](const SchemeResult& a, const SchemeResult& b) {
                                         return std::pair(!a.legal, a.scheme.devices()) <
                                                std::pair(!b.legal, b.scheme.devices());
                                       });
  return fewest->scheme;
}

void describe_memory(const Subject& subject, SchemeResult& result,
                     const engine::ExecutorLimits& limits) {
  const std::vector<runtime::RankMemory> ranks =
      runtime::plan_memory(cluster_config(subject, result.scheme, limits.blocks),
                           subject.source.spec, *subject.ops, limits);
  const auto total = [](const runtime::RankMemory& m) {
    return m.weight_bytes + m.kv_bytes + m.activation_bytes;
  };
  const auto fullest =
      std::max_element(ranks.begin(), ranks.end(),
                       [&](const auto& a, const auto& b) { return total(a) < total(b); });
  result.kv_blocks = limits.blocks;
  result.weight_bytes = fullest->weight_bytes;
  result.kv_bytes = fullest->kv_bytes;
  result.activation_bytes = fullest->activation_bytes;
}

void add_scheme(const Subject& subject, const mesh::ParallelConfig& scheme, bool timed,
                VerifyReport& report) {
  const auto same = [&](const SchemeResult& r) { return r.scheme == scheme; };
  if (std::any_of(report.schemes.begin(), report.schemes.end(), same)) return;
  SchemeResult result{.scheme = scheme, .timed = timed};
  const base::Result<mesh::Mesh> mesh = mesh::Mesh::create(scheme, subject.source.spec.divisors());
  if (!mesh.ok()) {
    result.legal = false;
    result.reason = mesh.error().message;
  } else {
    const auto limits =
        runtime::plan_limits(cluster_config(subject, scheme, 0), subject.source.spec, *subject.ops);
    if (limits.ok()) {
      describe_memory(subject, result, *limits);
    } else {
      result.legal = false;
      result.reason = limits.error().message;
    }
  }
  report.schemes.push_back(std::move(result));
}

base::Result<VerifyReport> plan_subject(const Subject& subject) {
  const VerifyOptions& options = subject.options;
  VerifyReport report{.options = options};
  report.model_family = subject.source.spec.family;
  report.parameters = subject.source.spec.parameter_count();
  report.backend = subject.ops->name();
  report.machine = machine_facts(std::string(subject.ops->name()));
  for (const mesh::ParallelConfig& scheme : options.schemes) {
    add_scheme(subject, scheme, /*timed=*/true, report);
  }
  for (const mesh::ParallelConfig& scheme : options.answer_only_schemes) {
    add_scheme(subject, scheme, /*timed=*/false, report);
  }
  if (std::none_of(report.schemes.begin(), report.schemes.end(),
                   [](const SchemeResult& r) { return r.legal; })) {
    std::string reasons;
    for (const SchemeResult& r : report.schemes) {
      reasons += fmt::format("\n  {}: {}", mesh::scheme_name(r.scheme), r.reason);
    }
    return base::fail("no scheme is legal for {}:{}", options.cluster.model, reasons);
  }
  report.baseline = baseline_of(report);
  return report;
}

/// One started scheme under measurement.
class Session {
 public:
  Session(const Subject& subject, SchemeResult& result, const Progress& progress)
      : subject_(subject), result_(result), progress_(progress) {}

  base::Status start() {
    say("starting");
    FF_ASSIGN(cluster_,
              runtime::Cluster::start(cluster_config(subject_, result_.scheme, result_.kv_blocks),
                                      [this](const std::string& line) { say(line); }));
    FF_ASSIGN(const auto reports, cluster_->rank_reports());
    for (const runtime::RankReport& r : reports) {
      result_.load_s = std::max(result_.load_s, r.memory.load_s);
    }
    return {};
  }

  base::Result<std::vector<RequestAnswer>> answers() {
    const std::vector<engine::Request> requests = answer_requests(subject_);
    auto recorder = std::make_shared<AnswerRecorder>(requests.size());
    cluster_->trace([recorder](const engine::StepRecord& record) { recorder->observe(record); });
    size_t next = 0;
    const load::Submit submit = [&](const engine::Request& request, auto sink) {
      const size_t index = next++;
      const engine::SequenceId id = cluster_->next_id();
      recorder->assign(id, index);
      return send(id, request, std::move(sink),
                  [recorder, index](engine::TokenId token) { recorder->add_token(index, token); });
    };
    const auto logs = load::run_closed_loop(requests, kAnswerRequests, clock_, submit,
                                            progress_of("answers", requests.size()));
    if (!logs.ok()) return logs.error();
    cluster_->trace(nullptr);
    return recorder->take();
  }

  /// One run of the load; the prefix cache is empty at its start.
  base::Status measure(int concurrency, int repeat) {
    const VerifyOptions& o = subject_.options;
    const std::vector<engine::Request> requests =
        load::make_requests({.input_len = o.input_len,
                             .output_len = o.output_len,
                             .requests = requests_at(o, concurrency),
                             .vocab = subject_.source.spec.vocab,
                             .seed = o.seed + 1 + static_cast<uint64_t>(repeat)});
    FF_TRY(warm_up(requests.front()));
    cluster_->clear_prefix_cache();
    const engine::EngineStats engine_before = cluster_->engine_stats();
    FF_ASSIGN(const auto before, cluster_->rank_reports());
    const load::Submit submit = [this](const engine::Request& request, auto sink) {
      return send(cluster_->next_id(), request, std::move(sink), nullptr);
    };
    const std::string label =
        fmt::format("repeat {}/{}, concurrency {}", repeat + 1, o.repeats, concurrency);
    FF_ASSIGN(const auto logs, load::run_closed_loop(requests, concurrency, clock_, submit,
                                                     progress_of(label, requests.size())));
    FF_ASSIGN(const auto after, cluster_->rank_reports());
    add_run(result_.loads[concurrency], load::measure(logs), before, after);
    add_cache_stats(result_.loads[concurrency], engine_before, cluster_->engine_stats());
    return {};
  }

 private:
  void say(const std::string& line) const {
    progress_(fmt::format("{}: {}", mesh::scheme_name(result_.scheme), line));
  }

  std::function<void(size_t)> progress_of(std::string label, size_t total) const {
    return [this, label = std::move(label), total](size_t done) {
      say(fmt::format("{}: {}/{} requests", label, done, total));
    };
  }

  base::Status send(engine::SequenceId id, engine::Request request,
                    std::function<void(const load::Arrival&)> sink,
                    std::function<void(engine::TokenId)> on_token) {
    request.id = id;
    return cluster_->submit(std::move(request),
                            [sink = std::move(sink), on_token = std::move(on_token)](
                                const engine::SequenceEvent& event, int64_t now_ns) {
                              if (on_token && event.token) on_token(event.token->token);
                              sink({.tokens = event.token ? 1 : 0,
                                    .finished = event.finish.has_value(),
                                    .failure = event.failure,
                                    .now_ns = now_ns});
                            });
  }

  /// Touches every weight and buffer once, so that page faults are not measured.
  base::Status warm_up(engine::Request request) {
    request.max_new_tokens = std::min(request.max_new_tokens, kWarmUpTokens);
    const std::vector<engine::Request> requests(static_cast<size_t>(result_.scheme.dp), request);
    const load::Submit submit = [this](const engine::Request& r, auto sink) {
      return send(cluster_->next_id(), r, std::move(sink), nullptr);
    };
    const auto logs = load::run_closed_loop(requests, result_.scheme.dp, clock_, submit, nullptr);
    return logs.ok() ? base::Status() : base::Status(logs.error());
  }

  void add_run(LoadResult& load, load::RunMetrics run,
               const std::vector<runtime::RankReport>& before,
               const std::vector<runtime::RankReport>& after) const {
    const auto ranks = static_cast<double>(after.size());
    const double seconds = std::max(run.duration_s, 1e-9);
    // The means of the repeats so far and this one.
    const auto n = static_cast<double>(load.repeats.size());
    const auto blend = [n](double& mean, double value) { mean += (value - mean) / (n + 1); };
    double busy = 0;
    std::map<mesh::Axis, AxisCost> cost;
    for (size_t i = 0; i < after.size(); ++i) {
      busy += (after[i].stats.ops.seconds - before[i].stats.ops.seconds) / seconds / ranks;
      for (size_t a = 0; a < after[i].stats.comm.size(); ++a) {
        const auto& [axis, now] = after[i].stats.comm[a];
        const comm::CommStats& then = before[i].stats.comm[a].second;
        AxisCost& c = cost[axis];
        c.seconds += (now.seconds - then.seconds) / ranks;
        c.wait_seconds += (now.wait_seconds - then.wait_seconds) / ranks;
        c.bytes += static_cast<double>(now.bytes - then.bytes) / ranks;
        c.calls += static_cast<double>(now.calls - then.calls) / ranks;
        c.share += (now.seconds - then.seconds) / seconds / ranks;
      }
    }
    for (const auto& [axis, c] : cost) {
      AxisCost& mean = load.comm[axis];
      blend(mean.seconds, c.seconds);
      blend(mean.wait_seconds, c.wait_seconds);
      blend(mean.bytes, c.bytes);
      blend(mean.calls, c.calls);
      blend(mean.share, c.share);
    }
    blend(load.busy, busy);
    load.repeats.push_back(std::move(run));
  }

  void add_cache_stats(LoadResult& load, const engine::EngineStats& before,
                       const engine::EngineStats& after) const {
    load.queried_tokens += after.scheduler.queried_tokens - before.scheduler.queried_tokens;
    load.hit_tokens += after.scheduler.hit_tokens - before.scheduler.hit_tokens;
    load.preemptions += after.scheduler.preemptions - before.scheduler.preemptions;
    load.kv_peak_share =
        std::max(load.kv_peak_share, static_cast<double>(after.scheduler.peak_blocks) /
                                         static_cast<double>(cluster_->limits().blocks));
  }

  const Subject& subject_;
  SchemeResult& result_;
  const Progress& progress_;
  base::SteadyClock clock_;
  std::unique_ptr<runtime::Cluster> cluster_;
};

/// Starts a scheme and does what this repeat asks of it.
base::Status run_scheme(const Subject& subject, SchemeResult& result, int repeat,
                        std::vector<RequestAnswer>* answers, const Progress& progress) {
  Session session(subject, result, progress);
  FF_TRY(session.start());
  if (answers != nullptr) {
    FF_ASSIGN(*answers, session.answers());
  }
  if (!result.timed) return {};
  for (const int concurrency : subject.options.concurrencies) {
    FF_TRY(session.measure(concurrency, repeat));
  }
  return {};
}

/// The prompts share no prefix, so both runs computed every position: what only one has is an
/// error.
AnswerVerdict compare_all(const std::vector<RequestAnswer>& baseline,
                          const std::vector<RequestAnswer>& answers) {
  AnswerVerdict verdict = compare(baseline, answers);
  verdict.equal = verdict.equal && verdict.missing_hashes == 0;
  return verdict;
}

}  // namespace

int32_t requests_at(const VerifyOptions& options, int concurrency) {
  return options.requests > 0 ? options.requests : std::max(4, 2 * concurrency);
}

base::Result<VerifyReport> plan(const VerifyOptions& options) {
  FF_TRY(check_load(options));
  FF_ASSIGN(const Subject subject, open_subject(options));
  return plan_subject(subject);
}

base::Result<VerifyReport> run(const VerifyOptions& options, const Progress& progress) {
  FF_TRY(check_load(options));
  FF_ASSIGN(const Subject subject, open_subject(options));
  FF_ASSIGN(VerifyReport report, plan_subject(subject));
  // The baseline goes first: the others are compared with it.
  std::stable_sort(report.schemes.begin(), report.schemes.end(),
                   [&](const SchemeResult& a, const SchemeResult& b) {
                     return (a.scheme == report.baseline) > (b.scheme == report.baseline);
                   });
  std::vector<RequestAnswer> baseline;
  for (int repeat = 0; repeat < options.repeats; ++repeat) {
    for (SchemeResult& result : report.schemes) {
      if (!result.legal || !result.failure.empty() || (repeat > 0 && !result.timed)) continue;
      std::vector<RequestAnswer> answers;
      const base::Status status =
          run_scheme(subject, result, repeat, repeat == 0 ? &answers : nullptr, progress);
      if (runtime::interrupted()) return base::fail("interrupted");
      if (!status.ok()) {
        result.failure = status.error().message;
        result.loads.clear();  // some repeats of a load are not the load
        progress(fmt::format("{} failed: {}", mesh::scheme_name(result.scheme), result.failure));
        continue;
      }
      if (repeat > 0) continue;
      if (result.scheme == report.baseline) baseline = answers;
      if (!baseline.empty()) result.answers = compare_all(baseline, answers);
    }
  }
  for (SchemeResult& result : report.schemes) {
    for (auto& [concurrency, load] : result.loads) load.summary = load::summarize(load.repeats);
  }
  return report;
}

}  // namespace fourfold::verify
