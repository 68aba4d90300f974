#include "verify/run.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/machine.h"
#include "model/weights.h"
#include "runtime/available_memory.h"
#include "runtime/launch/interrupt.h"
#include "verify/load_plan.h"

namespace fourfold::verify {
namespace {

/// The one-device scheme, or the legal one with the fewest devices where one does not exist here.
mesh::ParallelConfig baseline_of(const VerifyReport& report) {
  const auto fewest = std::min_element(report.schemes.begin(), report.schemes.end(),
                                       [](const SchemeResult& a, const SchemeResult& b) {
                                         return std::pair(!a.legal, a.scheme.devices()) <
                                                std::pair(!b.legal, b.scheme.devices());
                                       });
  return fewest->scheme;
}

int64_t total_bytes(const runtime::RankMemory& m) {
  return m.weight_bytes + m.kv_bytes + m.activation_bytes;
}

/// Requests of the load's longest sequence that fit at once where every device has as much memory.
int64_t concurrent_requests(const Subject& subject, const SchemeResult& result,
                            const std::vector<runtime::RankMemory>& ranks,
                            const engine::ExecutorLimits& limits, int64_t device_bytes) {
  const int64_t per_request =
      (subject.max_positions + limits.block_size - 1) / limits.block_size;  // blocks
  int64_t blocks = std::numeric_limits<int64_t>::max();
  for (const runtime::RankMemory& m : ranks) {
    const int64_t block_bytes = std::max<int64_t>(1, m.kv_bytes / limits.blocks);
    const int64_t room = device_bytes - m.weight_bytes - m.activation_bytes;
    blocks = std::min(blocks, std::max<int64_t>(0, room) / block_bytes);
  }
  return blocks / per_request * result.scheme.dp;
}

void describe_memory(const Subject& subject, SchemeResult& result,
                     const engine::ExecutorLimits& limits, int64_t device_bytes) {
  const std::vector<runtime::RankMemory> ranks =
      runtime::plan_memory(cluster_config(subject, result.scheme, limits.blocks),
                           subject.source.spec, *subject.ops, limits);
  const auto fullest = std::max_element(
      ranks.begin(), ranks.end(),
      [](const auto& a, const auto& b) { return total_bytes(a) < total_bytes(b); });
  int64_t sum = 0;
  for (const runtime::RankMemory& m : ranks) sum += total_bytes(m);
  result.kv_blocks = limits.blocks;
  result.weight_bytes = fullest->weight_bytes;
  result.kv_bytes = fullest->kv_bytes;
  result.activation_bytes = fullest->activation_bytes;
  result.balance = static_cast<double>(sum) / static_cast<double>(ranks.size()) /
                   static_cast<double>(total_bytes(*fullest));
  result.max_concurrent_requests =
      concurrent_requests(subject, result, ranks, limits, device_bytes);
}

void add_scheme(const Subject& subject, const mesh::ParallelConfig& scheme, bool timed,
                VerifyReport& report) {
  if (report.find(scheme) != nullptr) return;
  SchemeResult result{.scheme = scheme, .timed = timed};
  const base::Result<mesh::Mesh> mesh = mesh::Mesh::create(
      scheme, subject.source.spec.divisors(), subject.options.cluster.expert_placement);
  if (!mesh.ok()) {
    result.legal = false;
    result.reason = mesh.error().message;
  } else {
    const auto limits =
        runtime::plan_limits(cluster_config(subject, scheme, 0), subject.source.spec, *subject.ops);
    if (limits.ok()) {
      describe_memory(subject, result, *limits, report.device_memory_bytes);
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
  report.date = base::utc_date();
  report.model_family = subject.source.spec.family;
  report.parameters = subject.source.spec.parameter_count();
  report.has_experts = subject.source.spec.experts() > 0;
  report.backend = subject.ops->name();
  report.machine = {.cpu = base::cpu_name(),
                    .isa = std::string(subject.ops->name()),
                    .cores = std::max(1, static_cast<int>(base::usable_cpus().size())),
                    .gpu = subject.ops->gpu(),
                    .gpus = runtime::usable_gpus(options.cluster, *subject.ops)};
  report.points = load_points(options);
  // A device is a core here, or a few: its memory is their share of what is free.
  report.device_memory_bytes = runtime::available_memory_bytes() / report.machine.cores *
                               std::min(options.cluster.cpus_per_device, report.machine.cores);
  if (const std::optional<int64_t> free = subject.ops->free_bytes()) {
    report.device_memory_bytes = *free;
  }
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

/// The points at which a scheme is timed in this repeat: in a sweep the first repeat finds where
/// the throughput stops growing, and the later ones follow it.
bool wants_point(const VerifyOptions& options, const SchemeResult& result, const LoadPoint& point,
                 int repeat) {
  if (!options.sweep) return true;
  if (repeat > 0) return result.loads.contains(point);
  std::vector<load::SweepPoint> sweep;
  for (const auto& [at, load] : result.loads) {
    sweep.push_back({static_cast<double>(at.concurrency), load.repeats.front().output_tok_s});
  }
  return sweep.size() < 2 || !load::sweep_saturated(sweep);
}

/// Starts a scheme and does what this repeat asks of it.
base::Status run_scheme(const Subject& subject, SchemeResult& result, int repeat,
                        std::vector<RequestAnswer>* answers, const Progress& progress) {
  const VerifyOptions& options = subject.options;
  Session session(subject, result, progress);
  FF_TRY(session.start());
  if (answers != nullptr) {
    FF_ASSIGN(*answers, session.answers());
  }
  if (!result.timed) return {};
  if (repeat == 0 && options.numerics == base::Numerics::kFast) {
    FF_TRY(session.compare_numerics());
  }
  const std::vector<LoadPoint> points = load_points(options);
  for (const LoadPoint& point : points) {
    if (!wants_point(options, result, point, repeat)) continue;
    FF_TRY(session.measure(point, repeat));
  }
  if (options.find_rate && repeat == 0) {
    FF_TRY(session.find_rate(points.front().rate > 0 ? points.front().rate : 1.0));
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

/// Of a sweep the points that were run.
void finish(VerifyReport& report) {
  std::set<LoadPoint> run;
  for (SchemeResult& result : report.schemes) {
    for (auto& [point, load] : result.loads) {
      load.summary = load::summarize(load.repeats);
      run.insert(point);
    }
  }
  std::erase_if(report.points, [&](const LoadPoint& point) { return !run.contains(point); });
}

}  // namespace

base::Result<VerifyReport> plan(const VerifyOptions& options) {
  FF_ASSIGN(const Subject subject, open_subject(options));
  return plan_subject(subject);
}

base::Result<VerifyReport> run(const VerifyOptions& options, const Progress& progress) {
  FF_ASSIGN(const Subject subject, open_subject(options));
  FF_ASSIGN(VerifyReport report, plan_subject(subject));
  // The baseline goes first: the others are compared with it.
  std::stable_sort(report.schemes.begin(), report.schemes.end(),
                   [&](const SchemeResult& a, const SchemeResult& b) {
                     return (a.scheme == report.baseline) > (b.scheme == report.baseline);
                   });
  std::vector<RequestAnswer> baseline;
  for (int repeat = 0; repeat < options.repeats; ++repeat) {
    const std::vector<SchemeResult> finished = report.schemes;
    for (SchemeResult& result : report.schemes) {
      if (!result.legal || !result.failure.empty() || (repeat > 0 && !result.timed)) continue;
      std::vector<RequestAnswer> answers;
      const base::Status status =
          run_scheme(subject, result, repeat, repeat == 0 ? &answers : nullptr, progress);
      if (runtime::interrupted()) {
        if (repeat == 0) return base::fail("interrupted before every scheme had run once");
        report.schemes = finished;
        report.options.repeats = repeat;
        report.interrupted = true;
        finish(report);
        return report;
      }
      if (!status.ok()) {
        result.failure = status.error().message;
        result.loads.clear();  // some repeats of a load are not the load
        progress(fmt::format("{} failed: {}\n", mesh::scheme_name(result.scheme), result.failure));
        continue;
      }
      if (repeat > 0) continue;
      if (result.scheme == report.baseline) baseline = answers;
      if (!baseline.empty()) result.answers = compare_all(baseline, answers);
    }
  }
  finish(report);
  return report;
}

}  // namespace fourfold::verify
