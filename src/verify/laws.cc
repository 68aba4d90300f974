#include "verify/laws.h"

#include <algorithm>
#include <optional>

#include "load/statistics.h"
#include "verify/figures.h"

namespace fourfold::verify {
namespace {

using mesh::ParallelConfig;

std::string name(const SchemeResult& r) { return mesh::scheme_name(r.scheme); }

bool on_its_own_cores(const VerifyReport& report, const SchemeResult& r) {
  return !shares_cores(report, r.scheme);
}

/// What a figure of each repeat says about two schemes at one point.
struct Comparison {
  double a = 0;  ///< means
  double b = 0;
  int order = 0;                ///< -1: a is lower for sure, 1: higher for sure, 0: not told apart
  std::optional<double> least;  ///< a - b is at least that, with 97.5 %; nothing with one repeat
};

template <typename Value>
std::optional<Comparison> compare_at(const SchemeResult& a, const SchemeResult& b,
                                     const LoadPoint& point, Value value) {
  const auto at_a = a.loads.find(point);
  const auto at_b = b.loads.find(point);
  if (at_a == a.loads.end() || at_b == b.loads.end()) return std::nullopt;
  if (!at_a->second.usable() || !at_b->second.usable()) return std::nullopt;
  std::vector<double> of_a;
  std::vector<double> of_b;
  for (const load::RunMetrics& run : at_a->second.repeats) of_a.push_back(value(run));
  for (const load::RunMetrics& run : at_b->second.repeats) of_b.push_back(value(run));
  if (of_a.size() != of_b.size() || of_a.empty()) return std::nullopt;
  const load::PairedDifference difference = load::paired_difference(of_a, of_b);
  Comparison out{.a = load::mean(of_a), .b = load::mean(of_b), .order = 0};
  if (difference.ci95 && std::abs(difference.mean) > *difference.ci95) {
    out.order = difference.mean < 0 ? -1 : 1;
  }
  if (difference.ci95) out.least = difference.mean - *difference.ci95;
  return out;
}

double ttft_ms(const load::RunMetrics& run) {
  return run.ttft_ms.empty() ? 0 : load::mean(run.ttft_ms);
}
double tpot_ms(const load::RunMetrics& run) {
  return run.tpot_ms.empty() ? 0 : load::mean(run.tpot_ms);
}

/// Timed schemes that differ from one device along one axis only, that size rising, the baseline
/// first.
std::vector<const SchemeResult*> along(const VerifyReport& report, int ParallelConfig::*axis) {
  std::vector<const SchemeResult*> out;
  for (const SchemeResult& r : report.schemes) {
    ParallelConfig rest = r.scheme;
    rest.*axis = 1;
    if (rest == ParallelConfig{} && r.failure.empty() && !r.loads.empty() &&
        on_its_own_cores(report, r)) {
      out.push_back(&r);
    }
  }
  std::sort(out.begin(), out.end(), [&](const SchemeResult* a, const SchemeResult* b) {
    return a->scheme.*axis < b->scheme.*axis;
  });
  return out;
}

double tp_share(const SchemeResult& r, const LoadPoint& point) {
  return figures(r, r.loads.at(point)).axis(mesh::Axis::kTensor).share;
}

Law tensor_law(const VerifyReport& report, const LoadPoint& smallest) {
  Law law{.name = "tp",
          .statement = "More tensor parallelism lowers TTFT and communicates more.",
          .evidence = "needs two TP sizes, one of them 1, each with cores of its own"};
  const std::vector<const SchemeResult*> schemes = along(report, &ParallelConfig::tp);
  if (schemes.size() < 2) return law;
  law.evidence = "at " + smallest.name() + ": ";
  int lower = 0;
  bool fails = false;
  for (size_t i = 1; i < schemes.size(); ++i) {
    const auto c = compare_at(*schemes[i], *schemes[i - 1], smallest, ttft_ms);
    if (!c) {
      law.evidence = "the latencies at " + smallest.name() + " are not usable";
      return law;
    }
    const double before = tp_share(*schemes[i - 1], smallest);
    const double after = tp_share(*schemes[i], smallest);
    fails = fails || c->order > 0 || after <= before;
    lower += c->order < 0 ? 1 : 0;
    law.evidence += fmt::format(
        "{}{} TTFT {:.2f} ms against {:.2f} ms of {}{}, TP communication {:.1f} % "
        "against {:.1f} % of the time",
        i > 1 ? "; " : "", name(*schemes[i]), c->a, c->b, name(*schemes[i - 1]),
        c->order == 0 ? " (not told apart)" : "", 100 * after, 100 * before);
  }
  if (fails) {
    law.verdict = Verdict::kFails;
  } else if (lower == std::ssize(schemes) - 1) {
    law.verdict = Verdict::kHolds;
  }
  return law;
}

Law pipeline_law(const VerifyReport& report, const LoadPoint& smallest) {
  Law law{
      .name = "pp",
      .statement =
          "Pipeline parallelism saves memory and gains nothing at small batches (at most 10 %).",
      .evidence = "needs one device and a PP scheme, each with cores of its own"};
  const std::vector<const SchemeResult*> schemes = along(report, &ParallelConfig::pp);
  if (schemes.size() < 2 || schemes.front()->scheme.pp != 1) return law;
  const SchemeResult& one = *schemes.front();
  law.evidence = "at " + smallest.name() + ": ";
  constexpr double kNothing = 0.1;  // a gain that may be overlooked
  bool fails = false;
  bool shown = true;
  for (size_t i = 1; i < schemes.size(); ++i) {
    const SchemeResult& pp = *schemes[i];
    const auto c = compare_at(pp, one, smallest, tpot_ms);
    if (!c) {
      law.evidence = "the latencies at " + smallest.name() + " are not usable";
      return law;
    }
    fails = fails || c->order < 0 || pp.weight_bytes >= one.weight_bytes;
    shown = shown && c->least && *c->least >= -kNothing * c->b;
    law.evidence += fmt::format(
        "{}{} holds {:.1f} % of the weights on its fullest device; TPOT {:.2f} ms against {:.2f} "
        "ms of one device{}",
        i > 1 ? "; " : "", name(pp),
        100.0 * static_cast<double>(pp.weight_bytes) / static_cast<double>(one.weight_bytes), c->a,
        c->b, c->order == 0 ? " (not told apart)" : "");
  }
  if (fails) {
    law.verdict = Verdict::kFails;
  } else if (shown) {
    law.verdict = Verdict::kHolds;
  }
  return law;
}

/// Output tok/s of N replicas at a load N times as large, over N times that of one, in each repeat.
std::vector<double> scaling_ratios(const LoadResult& many, const LoadResult& one, int n) {
  std::vector<double> out;
  if (!many.usable() || !one.usable() || many.repeats.size() != one.repeats.size()) return out;
  for (size_t r = 0; r < many.repeats.size(); ++r) {
    if (one.repeats[r].output_tok_s <= 0) return {};
    out.push_back(many.repeats[r].output_tok_s / (n * one.repeats[r].output_tok_s));
  }
  return out;
}

Law data_law(const VerifyReport& report) {
  constexpr double kLinear = 0.95;
  Law law{.name = "dp",
          .statement =
              "Data parallelism scales throughput linearly at a load that grows with it (at least "
              "95 %).",
          .evidence =
              "needs one device at a concurrency or rate and N replicas at N times it, "
              "each with cores of its own"};
  const std::vector<const SchemeResult*> schemes = along(report, &ParallelConfig::dp);
  if (schemes.size() < 2 || schemes.front()->scheme.dp != 1) return law;
  const SchemeResult& one = *schemes.front();
  int pairs = 0;
  int holds = 0;
  bool fails = false;
  std::string evidence;
  for (size_t i = 1; i < schemes.size(); ++i) {
    const int n = schemes[i]->scheme.dp;
    for (const auto& [point, load] : schemes[i]->loads) {
      const std::optional<LoadPoint> smaller = point.divided(n, 1);
      const auto base = smaller ? one.loads.find(*smaller) : one.loads.end();
      if (base == one.loads.end()) continue;
      const std::vector<double> ratios = scaling_ratios(load, base->second, n);
      if (ratios.empty()) continue;
      const double mean = load::mean(ratios);
      const std::optional<double> ci = load::confidence_95(ratios);
      ++pairs;
      if (ci && mean + *ci < kLinear) fails = true;
      if (ci && mean + *ci >= kLinear && mean - *ci > 2 * kLinear - 1) ++holds;
      evidence += fmt::format("{}{} at {} reaches {:.1f} %{} of {} times one device at {}",
                              pairs > 1 ? "; " : "", name(*schemes[i]), point.name(), 100 * mean,
                              ci ? fmt::format(" ± {:.1f}", 100 * *ci) : "", n, smaller->name());
    }
  }
  if (pairs == 0) return law;
  law.evidence = evidence;
  if (fails) {
    law.verdict = Verdict::kFails;
  } else if (holds == pairs) {
    law.verdict = Verdict::kHolds;
  }
  return law;
}

/// The scheme that differs from `ep` in having all experts on each rank, if it was timed.
const SchemeResult* without_ep(const VerifyReport& report, const SchemeResult& ep) {
  ParallelConfig twin = ep.scheme;
  twin.ep = 1;
  twin.etp = 0;
  const SchemeResult* found = report.find(twin);
  return found != nullptr && found->failure.empty() && !found->loads.empty() ? found : nullptr;
}

Law expert_law(const VerifyReport& report, const LoadPoint& smallest) {
  Law law{
      .name = "ep",
      .statement = "Expert parallelism can slow down low concurrency.",
      .evidence = "needs a scheme with ep and the same one without, each with cores of its own"};
  if (!report.has_experts) {
    law.evidence = "the model has no experts";
    return law;
  }
  int pairs = 0;
  int slower = 0;
  int faster = 0;
  std::string evidence;
  for (const SchemeResult& r : report.schemes) {
    if (r.scheme.ep == 1 || r.scheme.etp != 0 || !on_its_own_cores(report, r)) continue;
    const SchemeResult* twin = without_ep(report, r);
    const auto c = twin != nullptr ? compare_at(r, *twin, smallest, tpot_ms) : std::nullopt;
    if (!c) continue;
    ++pairs;
    slower += c->order > 0 ? 1 : 0;
    faster += c->order < 0 ? 1 : 0;
    const AxisCost exchange = figures(r, r.loads.at(smallest)).axis(mesh::Axis::kExpert);
    evidence += fmt::format(
        "{}{} TPOT {:.2f} ms against {:.2f} ms of {}{}, {:.1f} % of the time in the exchange",
        pairs > 1 ? "; " : "", name(r), c->a, c->b, name(*twin),
        c->order == 0 ? " (not told apart)" : "", 100 * exchange.share);
  }
  if (pairs == 0) return law;
  law.evidence = "at " + smallest.name() + ": " + evidence;
  if (slower > 0) {
    law.verdict = Verdict::kHolds;
  } else if (faster == pairs) {
    law.verdict = Verdict::kFails;
  }
  return law;
}

}  // namespace

std::string name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kHolds:
      return "holds";
    case Verdict::kFails:
      return "fails";
    case Verdict::kUndecided:
      break;
  }
  return "undecided";
}

std::vector<Law> laws(const VerifyReport& report) {
  std::vector<Law> out;
  if (report.points.empty()) return out;
  const LoadPoint smallest = *std::min_element(report.points.begin(), report.points.end());
  out.push_back(tensor_law(report, smallest));
  out.push_back(pipeline_law(report, smallest));
  out.push_back(data_law(report));
  out.push_back(expert_law(report, smallest));
  return out;
}

}  // namespace fourfold::verify
