#include "verify/figures.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/check.h"
#include "load/statistics.h"

namespace fourfold::verify {

using mesh::Axis;

const std::vector<std::pair<Axis, std::string>>& named_axes() {
  static const std::vector<std::pair<Axis, std::string>> kAxes = {{Axis::kTensor, "tp"},
                                                                  {Axis::kPipeline, "pp"},
                                                                  {Axis::kExpert, "ep"},
                                                                  {Axis::kControl, "control"}};
  return kAxes;
}

const AxisCost& Figures::axis(Axis axis) const {
  static const AxisCost kNone;
  const auto it = comm.find(axis);
  return it == comm.end() ? kNone : it->second;
}

backend::Activity mean_activity(const LoadResult& load) {
  const auto mean_of = [&](std::optional<double> backend::Activity::*part) {
    std::vector<double> values;
    for (const backend::Activity& repeat : load.activity) {
      if (repeat.*part) values.push_back(*(repeat.*part));
    }
    return values.empty() ? std::nullopt : std::optional(load::mean(values));
  };
  return {.busy = mean_of(&backend::Activity::busy),
          .sm_active = mean_of(&backend::Activity::sm_active),
          .dram_active = mean_of(&backend::Activity::dram_active),
          .power_w = mean_of(&backend::Activity::power_w)};
}

Figures figures(const SchemeResult& scheme, const LoadResult& load) {
  Figures out;
  const auto repeats = static_cast<double>(load.costs.size());
  if (load.costs.empty()) return out;
  double flop_s = 0;
  double bytes_s = 0;
  double inside = 0;  // of communication
  for (const RunCost& run : load.costs) {
    const double wall = std::max(run.wall_s, 1e-9);
    const double rank_time = wall * run.ranks;
    out.busy += run.ops.seconds / rank_time / repeats;
    flop_s += static_cast<double>(run.ops.matmul_flops + run.ops.attention_flops) / wall / repeats;
    bytes_s += static_cast<double>(run.ops.bytes) / wall / repeats;
    for (const auto& [axis, cost] : run.comm) {
      AxisCost& mean = out.comm[axis];
      mean.seconds += cost.seconds / run.ranks / repeats;
      mean.wait_seconds += cost.wait_seconds / run.ranks / repeats;
      mean.bytes += static_cast<double>(cost.bytes) / run.ranks / repeats;
      mean.calls += static_cast<double>(cost.calls) / run.ranks / repeats;
      mean.share += cost.seconds / rank_time / repeats;
      mean.wait_share += cost.wait_seconds / rank_time / repeats;
      // Without a step to run: front, scheduling and idle time.
      if (axis != mesh::Axis::kControl) inside += cost.seconds / rank_time / repeats;
    }
  }
  out.other = std::max(0.0, 1.0 - out.busy - inside);
  if (scheme.peaks) {
    out.mfu = flop_s / scheme.peaks->matmul_flop_s;
    out.mbu = bytes_s / scheme.peaks->read_bytes_s;
  }
  return out;
}

namespace {

/// What of the exchange costs a noticeable part of the time, and why.
std::string binding_part(const ExpertFigures& experts, const AxisCost& exchange) {
  constexpr double kNoticeable = 0.1;
  if (exchange.calls == 0) return "nothing: no rows travel";
  const double move = exchange.share - exchange.wait_share;
  if (std::max(move, exchange.wait_share) < kNoticeable) {
    return fmt::format("not the exchange ({:.0f} % of the time)", 100 * exchange.share);
  }
  if (move >= exchange.wait_share) {
    return fmt::format("moving rows ({:.0f} % of the time)", 100 * move);
  }
  std::string out =
      fmt::format("waiting for slower ranks ({:.0f} % of the time)", 100 * exchange.wait_share);
  if (experts.zero_row_share >= kNoticeable) {
    out += fmt::format("; {:.0f} % of the steps only for other replicas' rows",
                       100 * experts.zero_row_share);
  }
  if (experts.imbalance >= 1 + kNoticeable) {
    out += fmt::format("; the fullest rank computes {:.2f} times the mean", experts.imbalance);
  }
  return out;
}

/// Sums that one or more layers' figures are made of.
struct ExpertSums {
  double most = 0;  ///< rows of each run's fullest rank
  double mean = 0;  ///< rows of its mean rank
  int64_t steps = 0;
  int64_t distinct = 0;

  void add(const LayerExperts& run) {
    most += static_cast<double>(*std::max_element(run.rank_rows.begin(), run.rank_rows.end()));
    mean += static_cast<double>(
                std::accumulate(run.rank_rows.begin(), run.rank_rows.end(), int64_t{0})) /
            static_cast<double>(run.rank_rows.size());
    steps += run.steps;
    distinct += run.distinct;
  }
  double imbalance() const { return mean > 0 ? most / mean : 1; }
  double distinct_per_step() const {
    return steps > 0 ? static_cast<double>(distinct) / static_cast<double>(steps) : 0;
  }
};

}  // namespace

std::optional<ExpertFigures> expert_figures(const LoadResult& load, const Figures& figures) {
  ExpertFigures out;
  ExpertSums all;
  std::map<int32_t, ExpertSums> sums;
  int64_t steps = 0;
  int64_t zero_row_steps = 0;
  for (const RunCost& run : load.costs) {
    steps += run.steps;
    zero_row_steps += run.zero_row_steps;
    for (const auto& [layer, work] : run.experts) {
      all.add(work);
      sums[layer].add(work);
      std::vector<int64_t>& rows = out.layers[layer].rows;
      rows.resize(work.rows.size());
      for (size_t e = 0; e < rows.size(); ++e) rows[e] += work.rows[e];
    }
  }
  if (sums.empty()) return std::nullopt;
  for (const auto& [layer, sum] : sums) {
    out.layers[layer].imbalance = sum.imbalance();
    out.layers[layer].distinct_per_step = sum.distinct_per_step();
  }
  out.imbalance = all.imbalance();
  out.distinct_per_step = all.distinct_per_step();
  if (steps > 0) {
    out.zero_row_share = static_cast<double>(zero_row_steps) / static_cast<double>(steps);
  }
  out.binds = binding_part(out, figures.axis(Axis::kExpert));
  return out;
}

namespace {

std::optional<double> output_tok_s(const SchemeResult& scheme, const LoadPoint& point) {
  const auto it = scheme.loads.find(point);
  if (it == scheme.loads.end() || !it->second.summary.invalid_reason.empty()) return std::nullopt;
  return it->second.summary.output_tok_s.mean;
}

std::optional<double> efficiency(const VerifyReport& report, const SchemeResult& scheme,
                                 const LoadPoint& point, const LoadPoint& baseline_point) {
  const SchemeResult* baseline = report.find(report.baseline, scheme.engine);
  if (baseline == nullptr) return std::nullopt;
  const std::optional<double> mine = output_tok_s(scheme, point);
  const std::optional<double> theirs = output_tok_s(*baseline, baseline_point);
  if (!mine || !theirs || *theirs <= 0) return std::nullopt;
  return (*mine / scheme.scheme.devices()) / (*theirs / baseline->scheme.devices());
}

}  // namespace

std::optional<double> efficiency_same_load(const VerifyReport& report, const SchemeResult& scheme,
                                           const LoadPoint& point) {
  return efficiency(report, scheme, point, point);
}

std::optional<double> efficiency_growing_load(const VerifyReport& report,
                                              const SchemeResult& scheme, const LoadPoint& point) {
  const std::optional<LoadPoint> smaller =
      point.divided(scheme.scheme.devices(), report.baseline.devices());
  return smaller ? efficiency(report, scheme, point, *smaller) : std::nullopt;
}

std::vector<const SchemeResult*> timed_at(const VerifyReport& report, const LoadPoint& point) {
  std::vector<const SchemeResult*> out;
  for (const SchemeResult& r : report.schemes) {
    if (r.failure.empty() && r.loads.contains(point)) out.push_back(&r);
  }
  return out;
}

bool shares_cores(const VerifyReport& report, const mesh::ParallelConfig& scheme) {
  if (report.machine.gpus > 0) return scheme.devices() > report.machine.gpus;
  return scheme.devices() * report.options.cluster.cpus_per_device > report.machine.cores;
}

namespace {

/// "" where nobody counted what the time was spent on.
std::string binding_limit(const SchemeResult& scheme, const LoadPoint& point) {
  const LoadResult& load = scheme.loads.at(point);
  if (load.costs.empty()) return "";
  if (load.preemptions > 0) {
    return fmt::format("KV cache ({} preemptions, {:.0f} % in use at the peak)", load.preemptions,
                       100 * load.kv_peak_share);
  }
  const Figures f = figures(scheme, load);
  std::vector<std::pair<std::string, double>> candidates = {
      {"TP communication", f.axis(Axis::kTensor).share},
      {"pipeline transfers and bubble", f.axis(Axis::kPipeline).share},
      {"expert exchange", f.axis(Axis::kExpert).share},
      {"front, scheduling and idle time", f.other}};
  if (f.mfu) candidates.emplace_back("arithmetic", *f.mfu);
  if (f.mbu) candidates.emplace_back("memory bandwidth", *f.mbu);
  const auto most =
      std::max_element(candidates.begin(), candidates.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  // Peaks are probed in the same run, but not at the same moment.
  return fmt::format("{} ({:.0f} %{})", most->first, 100 * most->second,
                     most->second > 1 ? " of a peak probed while the machine was slower" : "");
}

using Value = std::function<double(const load::RunMetrics&)>;

/// The winner by a figure of each repeat, which is 0 only where a scheme lacks it or, of a rate,
/// where it did not manage any; nothing where one lacks it, or all are 0.
std::optional<Winner> winner_of(const std::vector<const SchemeResult*>& timed,
                                const LoadPoint& point, bool lower_is_better,
                                const std::string& unit, const Value& value) {
  std::vector<std::vector<double>> values;
  for (const SchemeResult* r : timed) {
    std::vector<double>& repeats = values.emplace_back();
    for (const load::RunMetrics& run : r->loads.at(point).repeats) {
      repeats.push_back(value(run));
      if (lower_is_better && !(repeats.back() > 0)) return std::nullopt;
    }
  }
  const auto is_zero = [](double x) { return x == 0; };
  if (std::all_of(values.begin(), values.end(), [&](const std::vector<double>& repeats) {
        return std::all_of(repeats.begin(), repeats.end(), is_zero);
      })) {
    return std::nullopt;
  }
  const load::Ranking ranking = load::rank(values, lower_is_better);
  const SchemeResult* best = timed[ranking.best];
  Winner out{.scheme = best,
             .tie = {},
             .value = load::mean(values[ranking.best]),
             .unit = unit,
             .limit = binding_limit(*best, point)};
  for (const size_t i : ranking.ties) out.tie.push_back(timed[i]->name());
  return out;
}

/// The winner by a figure that has no noise.
Winner exact_winner(const std::vector<const SchemeResult*>& timed, bool lower_is_better,
                    const std::string& unit, const std::string& limit,
                    const std::function<int64_t(const SchemeResult&)>& value) {
  const auto better = [&](const SchemeResult* a, const SchemeResult* b) {
    return lower_is_better ? value(*a) < value(*b) : value(*a) > value(*b);
  };
  const SchemeResult* best = *std::min_element(timed.begin(), timed.end(), better);
  Winner out{.scheme = best,
             .tie = {},
             .value = static_cast<double>(value(*best)),
             .unit = unit,
             .limit = limit};
  for (const SchemeResult* r : timed) {
    if (r != best && value(*r) == value(*best)) out.tie.push_back(r->name());
  }
  return out;
}

}  // namespace

std::map<std::string, Winner> winners(const VerifyReport& report, const LoadPoint& point) {
  std::map<std::string, Winner> out;
  // Who answers differently wins nothing.
  std::vector<const SchemeResult*> timed = timed_at(report, point);
  std::erase_if(timed, [](const SchemeResult* r) { return !r->ok(); });
  if (timed.empty()) return out;
  std::vector<const SchemeResult*> usable;
  std::copy_if(timed.begin(), timed.end(), std::back_inserter(usable),
               [&](const SchemeResult* r) { return r->loads.at(point).usable(); });
  const auto add = [&](const std::string& name, bool lower_is_better, const std::string& unit,
                       const Value& value) {
    if (usable.empty()) return;
    if (auto winner = winner_of(usable, point, lower_is_better, unit, value)) {
      out.emplace(name, std::move(*winner));
    }
  };
  add("ttft", true, "ms", [](const load::RunMetrics& m) { return load::mean(m.ttft_ms); });
  add("tpot", true, "ms", [](const load::RunMetrics& m) { return load::mean(m.tpot_ms); });
  add("throughput", false, "output tok/s",
      [](const load::RunMetrics& m) { return m.output_tok_s; });
  if (!report.options.slo.empty()) {
    add("goodput", false, "requests/s within the SLO",
        [](const load::RunMetrics& m) { return m.goodput_rps; });
  }
  if (report.served()) return out;
  out.emplace("memory", exact_winner(timed, true, "bytes on the fullest device", "weights and KV",
                                     [](const SchemeResult& r) { return r.planned_bytes(); }));
  out.emplace("concurrency",
              exact_winner(timed, false, "requests at once", "device memory",
                           [](const SchemeResult& r) { return r.max_concurrent_requests; }));
  return out;
}

std::vector<std::pair<std::string, std::string>> definitions() {
  std::vector<std::pair<std::string, std::string>> out = load::definitions();
  const std::vector<std::pair<std::string, std::string>> own = {
      {"device_busy",
       "Seconds in operators over wall time, mean over devices; waiting and spinning are not "
       "busy."},
      {"gpu",
       "What the GPU's own counters say of the same time, whoever used it: that some kernel ran, "
       "multiprocessors that had work, the share of the memory's theoretical bandwidth, and power "
       "(NVML)."},
      {"mfu",
       "FLOPs of all matrix products and attentions over wall time and the arithmetic peak that "
       "all devices of the scheme reached at once in this run."},
      {"mbu",
       "Bytes of weights and KV cache that had to be read over wall time and the read bandwidth "
       "that all devices of the scheme reached at once in this run."},
      {"efficiency",
       "Output tokens per second and device over those of the baseline scheme: at the same load, "
       "and at a load that is larger by the ratio of devices."},
      {"comm",
       "Seconds that a device spent inside the calls of an axis, of which wait_seconds until the "
       "slowest peer had arrived; bytes that it put in."},
      {"bubble_share",
       "Share of a device's time in which it waited for another pipeline stage with a step at "
       "hand."},
      {"expert_imbalance",
       "Rows that the rank with the most computed in its experts over the mean rank, of all "
       "layers."},
      {"experts",
       "Distinct experts: those whose weights a rank reads in one layer of a step. Steps without "
       "rows: of a replica that had none while another one with the same experts had some. Waiting "
       "of the EP axis holds what replicas that step together wait for each other."},
      {"invariant_cost",
       "Mean time per token of the answers pass in invariant numerics over that in fast numerics, "
       "the best of two runs each."},
      {"fast_answers",
       "Greedy answers in fast numerics against invariant numerics on the same weights: tokens "
       "before each request's first difference over all tokens; the largest change of a "
       "log-probability among the ten most likely tokens; a difference is a near-tie where its two "
       "tokens were apart by less than twice that."},
      {"memory_bytes",
       "Of the fullest device: weights, KV cache, and activations (arena, rotary tables, step "
       "inputs); balance is the mean device over the fullest."},
      {"cpu_cores",
       "CPU seconds of all processes of a server over wall time: how many cores it kept busy, "
       "spinning included."},
      {"resident_bytes",
       "Most memory that all processes of a server held resident; pages that they share count once "
       "for each."},
      {"answers_served",
       "Greedy answers of a server against those of the first scheme of the same engine; a first "
       "difference is a near-tie where the baseline's two tokens were apart by less than twice the "
       "largest change of a log-probability before it."},
      {"max_concurrent_requests",
       "Requests of the load's longest sequence whose KV cache fits at once if each device has its "
       "share of this machine's free memory."},
  };
  out.insert(out.end(), own.begin(), own.end());
  return out;
}

}  // namespace fourfold::verify
