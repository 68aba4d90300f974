#include "verify/served_report.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/version.h"
#include "verify/engines.h"
#include "verify/figures.h"
#include "verify/report.h"
#include "verify/table.h"

namespace fourfold::verify {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;
constexpr const char* kNone = "—";

std::string or_none(std::string text) { return text == "-" ? kNone : std::move(text); }

std::string answer_cell(const SchemeResult& r) {
  if (!r.failure.empty()) return "FAILED";
  if (!r.served_answers) return r.loads.empty() ? kNone : "baseline";
  const measure::ServedComparison& c = *r.served_answers;
  return fmt::format("{} of {} equal", c.equal_answers, c.answers);
}

std::string engines_section(const VerifyReport& report) {
  std::string out = "Servers, one at a time; greedy answers compared within each engine\n";
  Table table({"scheme", "devices", "start s", "MiB resident", "answers"});
  std::string notes;
  int most = 0;
  for (const SchemeResult& r : report.schemes) {
    if (!r.legal) {
      notes += fmt::format("  {} cannot run: {}\n", r.name(), r.reason);
      continue;
    }
    const bool outside = !r.label.empty();
    if (r.failure.empty()) most = std::max(most, r.scheme.devices());
    table.add({r.name(), outside ? kNone : std::to_string(r.scheme.devices()),
               r.load_s > 0 ? fmt::format("{:.1f}", r.load_s) : kNone,
               r.resident_bytes
                   ? fmt::format("{:.0f}", static_cast<double>(*r.resident_bytes) / kMiB)
                   : kNone,
               answer_cell(r)});
    if (!r.failure.empty()) notes += fmt::format("  {} failed: {}\n", r.name(), r.failure);
    if (r.served_answers) {
      notes += fmt::format("  {} against {}: {}\n", r.name(), r.answers_compared_with,
                           measure::to_text(*r.served_answers));
    }
  }
  return out + table.str() + notes + devices_note(report, most);
}

std::string load_section(const VerifyReport& report, const LoadPoint& point) {
  std::vector<std::string> header = {"scheme",    "TTFT ms",      "TPOT ms",
                                     "ITL p99",   "output tok/s", "requests/s",
                                     "eff. same", "eff. grown",   "cores busy"};
  const bool goodput = !report.options.slo.empty();
  if (goodput) header.emplace_back("goodput/s");
  Table table(std::move(header));
  std::string notes;
  const auto share = [](const std::optional<double>& v) { return or_none(percent(v)); };
  for (const SchemeResult* r : timed_at(report, point)) {
    const LoadResult& load = r->loads.at(point);
    const load::LoadSummary& s = load.summary;
    const bool outside = !r->label.empty();
    std::vector<std::string> row = {
        r->name(),
        or_none(with_interval(s.ttft_ms, 2)),
        or_none(with_interval(s.tpot_ms, 2)),
        s.itl_ms.p99 ? fmt::format("{:.2f}", *s.itl_ms.p99) : kNone,
        or_none(with_interval(s.output_tok_s, 1)),
        or_none(with_interval(s.requests_s, 2)),
        outside ? kNone : share(efficiency_same_load(report, *r, point)),
        outside ? kNone : share(efficiency_growing_load(report, *r, point)),
        load.cpu_cores.empty() ? kNone : fmt::format("{:.2f}", load::mean(load.cpu_cores))};
    if (goodput) row.push_back(or_none(with_interval(s.goodput_rps, 2)));
    table.add(std::move(row));
    if (s.saturated) {
      notes += fmt::format("  {}: capacity exceeded, the queue grew to the end\n", r->name());
    }
    if (load.skipped_requests > 0) {
      notes += fmt::format("  {}: {} requests do not fit the context and were left out\n",
                           r->name(), load.skipped_requests);
    }
    if (!s.invalid_reason.empty()) notes += fmt::format("  {}: {}\n", r->name(), s.invalid_reason);
  }
  return point_title(report, point) + table.str() + notes;
}

std::string ratios_section(const VerifyReport& report, const LoadPoint& point) {
  std::string out;
  for (const EngineRatio& r : engine_ratios(report, point)) {
    out += fmt::format("  {}: {} gives {} times the output tok/s of {}\n", r.scheme, r.first,
                       with_interval(r.ratio, 2), r.second);
  }
  return out;
}

std::string definitions_section() {
  std::string out = "\nDefinitions\n";
  for (const auto& [key, title] :
       std::initializer_list<std::pair<std::string, std::string>>{{"ttft_ms", "TTFT"},
                                                                  {"tpot_ms", "TPOT"},
                                                                  {"itl_ms", "ITL"},
                                                                  {"efficiency", "eff."},
                                                                  {"cpu_cores", "cores busy"},
                                                                  {"resident_bytes", "resident"}}) {
    for (const auto& [name, sentence] : definitions()) {
      if (name == key) out += fmt::format("  {}: {}\n", title, sentence);
    }
  }
  return out;
}

}  // namespace

std::vector<EngineRatio> engine_ratios(const VerifyReport& report, const LoadPoint& point) {
  std::vector<EngineRatio> out;
  const std::vector<const SchemeResult*> timed = timed_at(report, point);
  for (const SchemeResult* first : timed) {
    if (first->engine != report.schemes.front().engine) continue;
    for (const SchemeResult* second : timed) {
      if (second->engine == first->engine || second->scheme != first->scheme ||
          !second->label.empty() || !first->label.empty()) {
        continue;
      }
      const auto& a = first->loads.at(point).repeats;
      const auto& b = second->loads.at(point).repeats;
      std::vector<std::vector<double>> ratios;
      for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        if (b[i].output_tok_s > 0) ratios.push_back({a[i].output_tok_s / b[i].output_tok_s});
      }
      out.push_back({mesh::scheme_name(first->scheme), first->engine, second->engine,
                     load::summarize(ratios)});
    }
  }
  return out;
}

std::string served_text(const VerifyReport& report) {
  std::string out = fmt::format(
      "\n{} ({}, {:.1f} M parameters), measured over HTTP by one client\n{}, {} cores; fourfold {} "
      "{}\n{}\n\n",
      report.options.cluster.model, report.model_family,
      static_cast<double>(report.parameters) * 1e-6, report.machine.cpu, report.machine.cores,
      base::version(), base::commit(), interleaving_note(report.options));
  if (report.interrupted) {
    out += "Interrupted: these are the repeats that had finished.\n\n";
  }
  out += engines_section(report);
  for (const LoadPoint& point : report.points) {
    if (timed_at(report, point).empty()) continue;
    out += load_section(report, point) + ranking_section(report, point) +
           ratios_section(report, point);
  }
  out += "\nNot measured\n";
  for (const auto& [name, reason] : missing_figures(report.options)) {
    out += fmt::format("  {}: {}\n", name, reason);
  }
  return out + definitions_section();
}

}  // namespace fourfold::verify
