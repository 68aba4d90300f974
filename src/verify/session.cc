#include "verify/session.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "load/capacity.h"
#include "runtime/launch/interrupt.h"
#include "verify/load_plan.h"

namespace fourfold::verify {
namespace {

/// The pass that proves answers: half of the requests greedy, half with a seed.
constexpr int32_t kAnswerRequests = 8;
constexpr int32_t kAnswerInput = 20;
constexpr int32_t kAnswerOutput = 24;
constexpr int32_t kWarmUpTokens = 4;
/// Tokens whose log-probabilities are compared at each position.
constexpr int32_t kTopTokens = 10;
/// Runs in each numerics, in turn, whose best times per token are compared.
constexpr int kNumericsRuns = 2;
/// Seconds for which all ranks measure their peaks before a scheme is timed.
constexpr double kPeaksSeconds = 0.4;

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

std::vector<engine::Request> answer_requests(const Subject& subject) {
  const AnswerLengths lengths = answer_lengths(subject.source.spec);
  std::vector<engine::Request> requests =
      load::make_requests(load::synthetic_workload({.input_len = lengths.input,
                                                    .output_len = lengths.output,
                                                    .conversations = kAnswerRequests,
                                                    .vocab = subject.source.spec.vocab,
                                                    .seed = subject.options.seed}));
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

/// Looks at the cluster at even intervals until it is told to stop.
class OccupancySampler {
 public:
  explicit OccupancySampler(runtime::Cluster& cluster)
      : cluster_(cluster), thread_([this] { sample(); }) {}
  OccupancySampler(const OccupancySampler&) = delete;
  OccupancySampler& operator=(const OccupancySampler&) = delete;
  ~OccupancySampler() { stop(); }

  std::vector<TimelinePoint> take() {
    stop();
    return std::move(points_);
  }

 private:
  static constexpr size_t kMostPoints = 200;

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

  void sample() {
    const base::SteadyClock clock;
    const int64_t begin_ns = clock.now_ns();
    std::chrono::milliseconds interval(10);
    std::unique_lock lock(mutex_);
    // At least once, however short the run and late this thread.
    do {
      points_.push_back({base::seconds_between(begin_ns, clock.now_ns()), cluster_.occupancy()});
      if (points_.size() == kMostPoints) {  // a long run: half as many points, twice as far apart
        for (size_t i = 0; i < kMostPoints / 2; ++i) points_[i] = points_[2 * i];
        points_.resize(kMostPoints / 2);
        interval *= 2;
      }
    } while (!changed_.wait_for(lock, interval, [this] { return stopping_; }));
  }

  runtime::Cluster& cluster_;
  std::vector<TimelinePoint> points_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace

base::Result<Subject> open_subject(const VerifyOptions& options) {
  FF_ASSIGN(model::ModelSource source, runtime::open_source(options.cluster));
  FF_ASSIGN(std::shared_ptr<const backend::Ops> ops,
            backend::make_ops(options.cluster.backend, options.cluster.isa));
  const int64_t limit = options.cluster.max_positions > 0 ? int64_t{options.cluster.max_positions}
                                                          : source.spec.max_positions;
  FF_ASSIGN(const int64_t longest, longest_sequence(options, limit));
  if (longest > limit) {
    return base::fail("the load's longest sequence has {} tokens, more than {} {}", longest,
                      options.cluster.max_positions > 0 ? "--max-model-len" : "the model's context",
                      limit);
  }
  const AnswerLengths answers = answer_lengths(source.spec);
  const auto positions = static_cast<int32_t>(
      std::max<int64_t>({longest, options.cluster.max_positions, answers.input + answers.output}));
  return Subject{options, std::move(source), std::move(ops), positions};
}

runtime::ClusterConfig cluster_config(const Subject& subject, const mesh::ParallelConfig& scheme,
                                      int64_t kv_blocks) {
  runtime::ClusterConfig config = subject.options.cluster;
  config.scheme = scheme;
  config.max_positions = subject.max_positions;
  int most = kAnswerRequests;
  for (const LoadPoint& point : load_points(subject.options)) {
    // An open loop may have any number of requests under way.
    most = std::max(most, point.concurrency > 0 ? point.concurrency : config.max_running);
  }
  config.max_running = std::min(config.max_running, most);
  if (config.kv_blocks == 0) config.kv_blocks = kv_blocks;
  return config;
}

base::Status Session::start() {
  say("starting");
  FF_ASSIGN(cluster_,
            runtime::Cluster::start(cluster_config(subject_, result_.scheme, result_.kv_blocks),
                                    [this](const std::string& line) { say(line); }));
  say("measuring the peaks");
  FF_ASSIGN(const auto reports, cluster_->rank_reports(result_.timed ? kPeaksSeconds : 0));
  backend::Peaks peaks;
  for (const runtime::RankReport& r : reports) {
    result_.load_s = std::max(result_.load_s, r.memory.load_s);
    result_.held_bytes = std::max(
        result_.held_bytes, r.memory.weight_bytes + r.memory.kv_bytes + r.memory.activation_bytes);
    peaks.matmul_flop_s += r.stats.peaks.matmul_flop_s;
    peaks.read_bytes_s += r.stats.peaks.read_bytes_s;
  }
  if (!result_.timed) return {};
  // Of all repeats the best: a peak is what the machine can do.
  if (!result_.peaks) result_.peaks = peaks;
  result_.peaks->matmul_flop_s = std::max(result_.peaks->matmul_flop_s, peaks.matmul_flop_s);
  result_.peaks->read_bytes_s = std::max(result_.peaks->read_bytes_s, peaks.read_bytes_s);
  return {};
}

base::Result<std::vector<RequestAnswer>> Session::answers() {
  const std::vector<engine::Request> requests = answer_requests(subject_);
  auto recorder = std::make_shared<AnswerRecorder>(requests.size());
  cluster_->set_numerics(base::Numerics::kInvariant);
  cluster_->trace([recorder](const engine::StepRecord& record) { recorder->observe(record); });
  FF_TRY(run_closed(
      requests, kAnswerRequests,
      [recorder](size_t request, const engine::SampledToken& token) {
        recorder->add_token(request, token);
      },
      recorder.get(), "answers"));
  cluster_->trace(nullptr);
  return recorder->take();
}

base::Status Session::compare_numerics() {
  std::vector<double> invariant_ms;
  std::vector<double> fast_ms;
  std::vector<RequestAnswer> invariant;
  std::vector<RequestAnswer> fast;
  for (int run = 0; run < kNumericsRuns; ++run) {
    FF_ASSIGN(invariant, greedy_answers(base::Numerics::kInvariant, invariant_ms));
    FF_ASSIGN(fast, greedy_answers(base::Numerics::kFast, fast_ms));
  }
  result_.fast_answers = deviation(invariant, fast);
  result_.invariant_cost = invariant_cost(invariant_ms, fast_ms);
  return {};
}

/// The greedy answers of the answers pass; the mean time per token is added to `tpot_ms`.
base::Result<std::vector<RequestAnswer>> Session::greedy_answers(base::Numerics numerics,
                                                                 std::vector<double>& tpot_ms) {
  std::vector<engine::Request> requests = answer_requests(subject_);
  for (engine::Request& request : requests) {
    request.sampling = {.temperature = 0, .logprobs = kTopTokens};
  }
  auto recorder = std::make_shared<AnswerRecorder>(requests.size());
  cluster_->set_numerics(numerics);
  FF_ASSIGN(const load::LoadRun run,
            run_closed(
                requests, kAnswerRequests,
                [recorder](size_t request, const engine::SampledToken& token) {
                  recorder->add_token(request, token);
                },
                nullptr, numerics == base::Numerics::kFast ? "fast" : "invariant"));
  if (!run.metrics.tpot_ms.empty()) tpot_ms.push_back(load::mean(run.metrics.tpot_ms));
  return recorder->take();
}

base::Status Session::measure(const LoadPoint& point, int repeat) {
  cluster_->set_numerics(subject_.options.numerics);
  LoadResult& load = result_.loads[point];
  FF_ASSIGN(const load::Workload workload, prepare(point, repeat));
  load.skipped_requests = workload.skipped;
  const engine::EngineStats engine_before = cluster_->engine_stats();
  FF_ASSIGN(const auto before, cluster_->rank_reports());
  OccupancySampler sampler(*cluster_);
  const std::unique_ptr<backend::ActivityMeter> meter = subject_.ops->activity_meter(std::min(
      runtime::usable_gpus(subject_.options.cluster, *subject_.ops), result_.scheme.devices()));
  if (meter != nullptr) meter->begin();
  FF_ASSIGN(load::LoadRun run, run_point(point, repeat, workload));
  if (meter != nullptr) load.activity.push_back(meter->end());
  load.timeline = sampler.take();
  FF_ASSIGN(const auto after, cluster_->rank_reports());
  add_costs(load, run.metrics.duration_s, before, after);
  add_cache_stats(load, engine_before, cluster_->engine_stats());
  load.repeats.push_back(std::move(run.metrics));
  return {};
}

base::Status Session::find_rate(double first_rate) {
  cluster_->set_numerics(subject_.options.numerics);
  const load::Slo& slo = subject_.options.slo;
  FF_ASSIGN(result_.slo_rate,
            load::search_rate({.first_rate = first_rate}, [&](double rate) -> base::Result<bool> {
              const LoadPoint point{.rate = rate};
              FF_ASSIGN(const load::Workload workload, prepare(point, 0));
              FF_ASSIGN(const load::LoadRun run, run_point(point, 0, workload));
              // A rate that this client cannot offer is not shown to be met.
              if (!run.metrics.valid()) return false;
              return load::meets(slo, run.metrics);
            }));
  return {};
}

/// The requests of a load point, before which everything is warm and the prefix cache empty.
base::Result<load::Workload> Session::prepare(const LoadPoint& point, int repeat) {
  FF_ASSIGN(load::Workload workload,
            make_workload(subject_.options, point, repeat, subject_.source.spec.vocab,
                          subject_.max_positions));
  FF_TRY(warm_up(load::make_request(workload, 0)));
  cluster_->clear_prefix_cache();
  return workload;
}

base::Result<load::LoadRun> Session::run_point(const LoadPoint& point, int repeat,
                                               const load::Workload& workload) {
  const VerifyOptions& o = subject_.options;
  load::RunOptions options = run_options(o, point, repeat, workload);
  options.on_finished =
      progress_of(fmt::format("repeat {}/{}, {}", repeat + 1, o.repeats, point.name()),
                  workload.requests.size());
  options.stop = [] { return runtime::interrupted(); };
  return load::run_load(workload, options, clock_, submit_to_cluster(nullptr, nullptr));
}

void Session::say(const std::string& line) const {
  progress_(fmt::format("{}: {}", mesh::scheme_name(result_.scheme), line));
}

std::function<void(size_t)> Session::progress_of(std::string label, size_t total) const {
  return [this, label = std::move(label), total](size_t done) {
    say(fmt::format("{}: {}/{} requests", label, done, total));
  };
}

/// Requests are counted in the order in which they are sent; `on_token` (if any) is told of the
/// request and its token, on an engine thread.
load::Submit Session::submit_to_cluster(OnToken on_token, AnswerRecorder* recorder) {
  auto next = std::make_shared<size_t>(0);
  return [this, on_token = std::move(on_token), recorder, next](engine::Request request,
                                                                load::Sink sink) {
    const size_t index = (*next)++;
    request.id = cluster_->next_id();
    if (recorder != nullptr) recorder->assign(request.id, index);
    return cluster_->submit(std::move(request),
                            [sink = std::move(sink), on_token, index](
                                const engine::SequenceEvent& event, int64_t now_ns) {
                              if (on_token && event.token) on_token(index, *event.token);
                              std::span<const engine::TokenId> tokens;
                              if (event.token) tokens = {&event.token->token, 1};
                              sink({.tokens = tokens,
                                    .finished = event.finish.has_value(),
                                    .failure = event.failure,
                                    .now_ns = now_ns});
                            });
  };
}

base::Result<load::LoadRun> Session::run_closed(std::vector<engine::Request> requests,
                                                int concurrency, OnToken on_token,
                                                AnswerRecorder* recorder,
                                                const std::string& label) {
  const size_t total = requests.size();
  return load::run_load(load::explicit_workload(std::move(requests)),
                        {.concurrency = concurrency,
                         .arrivals_s = {},
                         .slo = {},
                         .on_finished = progress_of(label, total),
                         .stop = [] { return runtime::interrupted(); }},
                        clock_, submit_to_cluster(std::move(on_token), recorder));
}

/// Touches every weight and buffer of every replica once, so that page faults are not measured.
base::Status Session::warm_up(engine::Request request) {
  request.max_new_tokens = std::min(request.max_new_tokens, kWarmUpTokens);
  std::vector<engine::Request> requests(static_cast<size_t>(result_.scheme.dp), request);
  FF_TRY(run_closed(std::move(requests), result_.scheme.dp, nullptr, nullptr, "warming up"));
  return {};
}

namespace {

/// Adds what a rank's experts did between two reports. The etp shards of an expert count the same
/// rows: one of them speaks for all.
void add_experts(const model::ExpertStats& before, const model::ExpertStats& after, bool speaks,
                 std::map<int32_t, LayerExperts>& sum) {
  for (const model::LayerExpertStats& now : after.layers) {
    const auto then = std::find_if(before.layers.begin(), before.layers.end(),
                                   [&](const auto& layer) { return layer.layer == now.layer; });
    const bool known = then != before.layers.end();
    LayerExperts work{.rows = now.rows,
                      .rank_rows = {},
                      .steps = now.steps - (known ? then->steps : 0),
                      .distinct = now.distinct - (known ? then->distinct : 0)};
    int64_t rows = 0;
    for (size_t e = 0; e < work.rows.size(); ++e) {
      work.rows[e] -= known ? then->rows[e] : 0;
      rows += work.rows[e];
      if (!speaks) work.rows[e] = 0;
    }
    work.rank_rows = {rows};
    sum[now.layer] += work;
  }
}

}  // namespace

void Session::add_costs(LoadResult& load, double wall_s,
                        const std::vector<runtime::RankReport>& before,
                        const std::vector<runtime::RankReport>& after) const {
  RunCost cost{.wall_s = wall_s, .ranks = static_cast<int>(after.size())};
  for (size_t i = 0; i < after.size(); ++i) {
    cost.steps += after[i].stats.steps - before[i].stats.steps;
    cost.fast_steps += after[i].stats.fast_steps - before[i].stats.fast_steps;
    cost.zero_row_steps += after[i].stats.zero_row_steps - before[i].stats.zero_row_steps;
    add_experts(before[i].stats.experts, after[i].stats.experts, after[i].expert_at.etp == 0,
                cost.experts);
    const backend::OpCounters& then = before[i].stats.ops;
    const backend::OpCounters& now = after[i].stats.ops;
    cost.ops.matmul_flops += now.matmul_flops - then.matmul_flops;
    cost.ops.attention_flops += now.attention_flops - then.attention_flops;
    cost.ops.bytes += now.bytes - then.bytes;
    cost.ops.seconds += now.seconds - then.seconds;
    for (size_t a = 0; a < after[i].stats.comm.size(); ++a) {
      const auto& [axis, comm_now] = after[i].stats.comm[a];
      const comm::CommStats& comm_then = before[i].stats.comm[a].second;
      // What the shards of one expert add is part of what experts cost.
      const bool of_experts = axis == mesh::Axis::kExpertTensor;
      cost.comm[of_experts ? mesh::Axis::kExpert : axis] +=
          {.seconds = comm_now.seconds - comm_then.seconds,
           .wait_seconds = comm_now.wait_seconds - comm_then.wait_seconds,
           .bytes = comm_now.bytes - comm_then.bytes,
           .calls = comm_now.calls - comm_then.calls};
    }
  }
  load.costs.push_back(std::move(cost));
}

void Session::add_cache_stats(LoadResult& load, const engine::EngineStats& before,
                              const engine::EngineStats& after) const {
  load.queried_tokens += after.scheduler.queried_tokens - before.scheduler.queried_tokens;
  load.hit_tokens += after.scheduler.hit_tokens - before.scheduler.hit_tokens;
  load.preemptions += after.scheduler.preemptions - before.scheduler.preemptions;
  load.kv_peak_share =
      std::max(load.kv_peak_share, static_cast<double>(after.scheduler.peak_blocks) /
                                       static_cast<double>(cluster_->limits().blocks));
}

}  // namespace fourfold::verify
