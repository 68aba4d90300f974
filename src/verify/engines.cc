#include "verify/engines.h"

#include <algorithm>
#include <set>
#include <utility>

#include "adapter/deployment.h"
#include "base/machine.h"
#include "load/run.h"
#include "load/workload.h"
#include "measure/endpoint.h"
#include "model/source.h"
#include "runtime/launch/interrupt.h"
#include "verify/load_plan.h"

namespace fourfold::verify {
namespace {

namespace fs = std::filesystem;

/// The pass that compares greedy answers.
constexpr int32_t kAnswerRequests = 6;
constexpr int32_t kAnswerInput = 24;
constexpr int32_t kAnswerOutput = 32;
constexpr int kTopTokens = 5;
/// Keeps the prompts of load points apart.
constexpr uint64_t kSeedsOfPoint = 1'000'003;

/// All that the schemes have in common.
struct Setting {
  const VerifyOptions& options;
  const Progress& progress;
  int64_t vocab = 0;
  int64_t max_positions = 0;
  fs::path logs;
  std::vector<LoadPoint> points;
};

/// One scheme of one engine.
struct Entry {
  const adapter::EngineOptions* engine = nullptr;
  SchemeResult result;
  std::vector<measure::ServedAnswer> answers;
};

bool runs_already(const VerifyOptions& options) {
  return std::all_of(options.engines.begin(), options.engines.end(),
                     [](const auto& engine) { return engine.engine == adapter::Engine::kOpenai; });
}

int rounds_of(const VerifyOptions& options) {
  return runs_already(options) ? options.repeats : std::min(options.rounds, options.repeats);
}

std::vector<Entry> entries_of(const VerifyOptions& options) {
  std::vector<Entry> out;
  for (const adapter::EngineOptions& engine : options.engines) {
    std::vector<mesh::ParallelConfig> schemes = options.schemes;
    const bool outside = engine.engine == adapter::Engine::kOpenai;
    if (outside) schemes = {mesh::ParallelConfig{}};
    for (const mesh::ParallelConfig& scheme : schemes) {
      const bool twice = std::any_of(out.begin(), out.end(), [&](const Entry& entry) {
        return entry.engine == &engine && entry.result.scheme == scheme;
      });
      if (twice) continue;
      Entry entry{.engine = &engine, .result = {.scheme = scheme, .timed = true}, .answers = {}};
      entry.result.engine = name_of(engine.engine);
      if (outside) entry.result.label = engine.label.empty() ? entry.result.engine : engine.label;
      if (const auto reason = adapter::cannot_run(engine, scheme)) {
        entry.result.legal = false;
        entry.result.reason = *reason;
      }
      out.push_back(std::move(entry));
    }
  }
  return out;
}

/// As the load's prompts are, but others.
base::Result<load::Workload> workload_of(const Setting& setting, size_t point, int repeat) {
  VerifyOptions options = setting.options;
  options.seed += kSeedsOfPoint * static_cast<uint64_t>(point);
  return make_workload(options, setting.points[point], repeat, setting.vocab,
                       setting.max_positions);
}

/// A running scheme under measurement.
class EngineSession {
 public:
  EngineSession(const Setting& setting, Entry& entry, adapter::Deployment& deployment)
      : setting_(setting),
        entry_(entry),
        deployment_(deployment),
        endpoint_(deployment.url(), deployment.api_key()) {}

  base::Status run(int first_repeat, int end_repeat) {
    FF_ASSIGN(model_, endpoint_.first_model());
    if (first_repeat == 0) FF_TRY(ask());
    for (int repeat = first_repeat; repeat < end_repeat; ++repeat) {
      for (size_t point = 0; point < setting_.points.size(); ++point) {
        FF_TRY(measure(point, repeat));
      }
    }
    return {};
  }

 private:
  base::Status ask() {
    say("greedy answers");
    const load::Workload prompts = load::synthetic_workload({.input_len = kAnswerInput,
                                                             .output_len = kAnswerOutput,
                                                             .conversations = kAnswerRequests,
                                                             .vocab = setting_.vocab,
                                                             .seed = ~setting_.options.seed});
    bool logprobs = true;
    for (const engine::Request& request : load::make_requests(prompts)) {
      measure::Question question{
          .model = model_, .prompt = request.prompt, .max_tokens = kAnswerOutput};
      if (logprobs) question.logprobs = kTopTokens;
      question.tokens_as_ids = logprobs && entry_.engine->engine == adapter::Engine::kVllm;
      base::Result<measure::ServedAnswer> answer = endpoint_.ask(question);
      if (!answer.ok() && logprobs && entry_.answers.empty()) {
        // Not every server knows logprobs; then texts are compared.
        logprobs = false;
        question.logprobs.reset();
        question.tokens_as_ids = false;
        answer = endpoint_.ask(question);
      }
      if (!answer.ok()) return answer.error();
      entry_.answers.push_back(std::move(*answer));
    }
    return {};
  }

  base::Status measure(size_t index, int repeat) {
    const LoadPoint& point = setting_.points[index];
    FF_TRY(warm_up(index, repeat));
    FF_ASSIGN(const load::Workload workload, workload_of(setting_, index, repeat));
    load::RunOptions options = run_options(setting_.options, point, repeat, workload);
    options.count_failures = true;
    options.stop = [] { return runtime::interrupted(); };
    options.on_finished = [&](size_t done) {
      say(fmt::format("repeat {}/{}, {}: {}/{} requests", repeat + 1, setting_.options.repeats,
                      point.name(), done, workload.requests.size()));
    };
    const double cpu_before_s = deployment_.use().cpu_s;
    FF_ASSIGN(load::LoadRun run, send(workload, options));
    const adapter::ProcessUse use = deployment_.use();
    const auto failed = std::find_if(run.requests.begin(), run.requests.end(),
                                     [](const load::RequestLog& r) { return r.failed; });
    if (failed != run.requests.end()) {
      return base::fail("{} of {} requests failed at {}: {}", run.metrics.failed,
                        run.requests.size(), point.name(), failed->failure);
    }
    LoadResult& load = entry_.result.loads[point];
    load.skipped_requests = workload.skipped;
    if (deployment_.own()) {
      load.cpu_cores.push_back((use.cpu_s - cpu_before_s) / std::max(run.wall_s, 1e-9));
      entry_.result.resident_bytes =
          std::max(entry_.result.resident_bytes.value_or(0), use.resident_bytes);
    }
    load.repeats.push_back(std::move(run.metrics));
    return {};
  }

  /// One request like the load's.
  base::Status warm_up(size_t index, int repeat) {
    VerifyOptions one = setting_.options;
    one.requests = 1;
    one.seed = ~one.seed - kSeedsOfPoint * index;
    FF_ASSIGN(const load::Workload workload, make_workload(one, {.concurrency = 1}, repeat,
                                                           setting_.vocab, setting_.max_positions));
    load::RunOptions options{.concurrency = 1, .stop = [] { return runtime::interrupted(); }};
    const auto run = send(workload, options);
    if (!run.ok()) return base::fail("the warm-up: {}", run.error().message);
    return {};
  }

  base::Result<load::LoadRun> send(const load::Workload& workload,
                                   const load::RunOptions& options) {
    return load::run_load(workload, options, clock_,
                          [this](const engine::Request& request, load::Sink sink) {
                            return endpoint_.submit(model_, request, std::move(sink));
                          });
  }

  void say(const std::string& line) const {
    setting_.progress(fmt::format("{}: {}", entry_.result.name(), line));
  }

  const Setting& setting_;
  Entry& entry_;
  adapter::Deployment& deployment_;
  load::SteadyWaitableClock clock_;
  measure::Endpoint endpoint_;  // after what its streams use
  std::string model_;
};

base::Status run_entry(const Setting& setting, Entry& entry, int first_repeat, int end_repeat) {
  const auto say = [&](const std::string& line) {
    setting.progress(fmt::format("{}: {}", entry.result.name(), line));
  };
  say("starting");
  FF_ASSIGN(const auto deployment,
            adapter::Deployment::start(*entry.engine, entry.result.scheme, setting.logs, say));
  entry.result.load_s = std::max(entry.result.load_s, deployment->start_s());
  base::Status status = EngineSession(setting, entry, *deployment).run(first_repeat, end_repeat);
  if (!status.ok() && !runtime::interrupted()) {
    // A request may fail a moment before the process behind it has ended.
    constexpr std::chrono::seconds kEndAfterFailure(3);
    if (const auto end = deployment->ended(kEndAfterFailure)) {
      status = base::fail("{}; the engine {}", status.error().message, *end);
    }
  }
  say("stopping");
  return status;
}

/// With those of the first scheme of the same engine that has any.
void compare_answers(std::vector<Entry>& entries) {
  for (Entry& entry : entries) {
    if (entry.answers.size() != kAnswerRequests) continue;
    const auto baseline = std::find_if(entries.begin(), entries.end(), [&](const Entry& other) {
      return other.engine == entry.engine && other.answers.size() == kAnswerRequests;
    });
    if (&*baseline == &entry) continue;
    entry.result.answers_compared_with = baseline->result.name();
    entry.result.served_answers = measure::compare_answers(baseline->answers, entry.answers);
  }
}

VerifyReport make_report(const VerifyOptions& options, std::vector<Entry>& entries,
                         const model::ModelSource& source) {
  VerifyReport report{.options = options};
  report.date = base::utc_date();
  report.model_family = source.spec.family;
  report.parameters = source.spec.parameter_count();
  report.has_experts = source.spec.experts() > 0;
  report.machine = {.cpu = base::cpu_name(),
                    .isa = {},
                    .cores = std::max(1, static_cast<int>(base::usable_cpus().size())),
                    .gpu = {}};
  std::set<LoadPoint> run;
  for (Entry& entry : entries) {
    for (auto& [point, load] : entry.result.loads) {
      load.summary = load::summarize(load.repeats);
      run.insert(point);
    }
    report.schemes.push_back(std::move(entry.result));
  }
  const auto fewest = std::min_element(report.schemes.begin(), report.schemes.end(),
                                       [](const SchemeResult& a, const SchemeResult& b) {
                                         return std::pair(!a.legal, a.scheme.devices()) <
                                                std::pair(!b.legal, b.scheme.devices());
                                       });
  report.baseline = fewest->scheme;
  for (const LoadPoint& point : load_points(options)) {
    if (run.contains(point)) report.points.push_back(point);
  }
  return report;
}

base::Result<Setting> make_setting(const VerifyOptions& options, const model::ModelSource& source,
                                   const Progress& progress) {
  Setting out{.options = options,
              .progress = progress,
              .vocab = source.spec.vocab,
              .max_positions = source.spec.max_positions,
              .logs = {},
              .points = load_points(options)};
  FF_ASSIGN(const int64_t longest, longest_sequence(options, out.max_positions));
  if (longest > out.max_positions) {
    return base::fail("the load's longest sequence has {} tokens, more than the model's context {}",
                      longest, out.max_positions);
  }
  const bool starts = std::any_of(
      options.engines.begin(), options.engines.end(), [](const adapter::EngineOptions& engine) {
        return engine.engine != adapter::Engine::kOpenai || engine.urls.size() > 1;  // our router
      });
  if (starts) {
    FF_ASSIGN(out.logs, adapter::make_log_folder());
    progress(fmt::format("logs of the servers: {}\n", out.logs.string()));
  }
  return out;
}

}  // namespace

base::Result<VerifyReport> run_engines(const VerifyOptions& options, const Progress& progress) {
  FF_ASSIGN(const model::ModelSource source,
            model::open_model(options.cluster.model, /*dummy_weights=*/true, 0));
  FF_ASSIGN(const Setting setting, make_setting(options, source, progress));
  std::vector<Entry> entries = entries_of(options);
  const int rounds = rounds_of(options);
  for (int round = 0; round < rounds; ++round) {
    const int first = options.repeats * round / rounds;
    const int end = options.repeats * (round + 1) / rounds;
    const std::vector<Entry> finished = entries;
    for (Entry& entry : entries) {
      if (!entry.result.legal || !entry.result.failure.empty()) continue;
      const base::Status status = run_entry(setting, entry, first, end);
      if (runtime::interrupted()) {
        if (round > 0) {
          entries = finished;
        } else {
          // What had not finished has nothing that could be compared.
          for (Entry* e = &entry; e != entries.data() + entries.size(); ++e) {
            e->result.loads.clear();
            if (e->result.legal) e->result.failure = runtime::kInterrupted;
          }
          if (&entry == &entries.front()) {
            return base::fail("interrupted before any scheme had finished");
          }
        }
        compare_answers(entries);
        VerifyReport report = make_report(options, entries, source);
        if (round > 0) report.options.repeats = first;
        report.interrupted = true;
        return report;
      }
      if (status.ok()) continue;
      entry.result.failure = status.error().message;
      entry.result.loads.clear();  // some repeats of a load are not the load
      progress(fmt::format("{} failed: {}\n", entry.result.name(), entry.result.failure));
    }
  }
  compare_answers(entries);
  return make_report(options, entries, source);
}

std::string interleaving_note(const VerifyOptions& options) {
  const int rounds = rounds_of(options);
  if (rounds == options.repeats && rounds > 1) {
    return "Interleaved: every repeat met every scheme in turn, so that drift of the machine meets "
           "all alike and paired intervals hold.";
  }
  if (rounds > 1) {
    return fmt::format(
        "Partly interleaved: each scheme was started {} times, in turn, for {} repeats in all; "
        "drift of the machine within a round is not cancelled.",
        rounds, options.repeats);
  }
  return "Not interleaved: each scheme was started once and ran all its repeats then. Intervals "
         "are those of one start at one time; drift of the machine between schemes is not in "
         "them, so a small lead proves nothing (--rounds N starts every scheme N times, in turn).";
}

std::vector<std::pair<std::string, std::string>> missing_figures(const VerifyOptions& options) {
  std::vector<std::pair<std::string, std::string>> out = {
      {"busy, MFU, MBU", "operators run inside the engine, where this client cannot count them"},
      {"communication", "the engine's profiler is not read"},
      {"KV hits, preemptions, queue", "the engine's /metrics is not read"},
      {"memory per device",
       "an engine does not tell its weights and KV cache apart; what its "
       "processes hold resident is in the table"}};
  if (runs_already(options)) {
    out.back().second = "a server that runs already may be on another machine";
    out.emplace_back("start, cores", "a server that runs already was not started here");
  }
  return out;
}

}  // namespace fourfold::verify
