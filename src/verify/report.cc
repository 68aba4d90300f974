#include "verify/report.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "base/version.h"
#include "verify/figures.h"
#include "verify/laws.h"
#include "verify/load_plan.h"
#include "verify/served_report.h"
#include "verify/start_command.h"
#include "verify/table.h"

namespace fourfold::verify {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

std::string plural(int count) { return count == 1 ? "" : "s"; }

int most_devices(const std::vector<const SchemeResult*>& schemes) {
  int most = 0;
  for (const SchemeResult* r : schemes) most = std::max(most, r->scheme.devices());
  return most;
}

std::string answer_cell(const VerifyReport& report, const SchemeResult& r) {
  if (!r.failure.empty()) return "FAILED";
  if (!r.answers) return "-";
  if (!r.answers->equal) return "DIFFER";
  return r.scheme == report.baseline ? "baseline" : "bit-equal";
}

std::string deviation_cell(const SchemeResult& r) {
  if (!r.fast_answers) return "-";
  const Deviation& d = *r.fast_answers;
  std::string out =
      fmt::format("{} equal, {:.1e} nat", percent(d.equal_token_share()), d.max_logprob_diff);
  if (d.differences > 0) {
    out += fmt::format(", {} of {} near-ties", d.near_ties, d.differences);
  }
  return out;
}

std::string answers_section(const VerifyReport& report) {
  std::string out = fmt::format(
      "Answers in invariant numerics, compared bit for bit with {} (tokens, logits and the "
      "residual\n"
      "after every layer), and what fast numerics changes\n",
      mesh::scheme_name(report.baseline));
  Table table({"scheme", "devices", "answers", "compared", "fast against invariant", "cost",
               "MiB/device", "load s"});
  std::vector<const SchemeResult*> legal;
  for (const SchemeResult& r : report.schemes) {
    if (!r.legal) continue;
    legal.push_back(&r);
    table.add({r.name(), std::to_string(r.scheme.devices()), answer_cell(report, r),
               r.answers ? fmt::format("{} values", r.answers->compared_hashes) : "-",
               deviation_cell(r),
               r.invariant_cost ? fmt::format("{:.2f}x", *r.invariant_cost) : "-",
               fmt::format("{:.1f}", static_cast<double>(r.planned_bytes()) / kMiB),
               fmt::format("{:.2f}", r.load_s)});
  }
  out += table.str() + devices_note(report, most_devices(legal));
  for (const SchemeResult* r : legal) {
    if (r->answers && r->answers->first_difference) {
      out += fmt::format("  {} first differs at {}\n", r->name(),
                         r->answers->first_difference->describe());
    }
    if (!r->failure.empty()) {
      out += fmt::format("  {} failed: {}\n", r->name(), r->failure);
    }
  }
  return out;
}

std::string comm_cell(const Figures& f, mesh::Axis axis) {
  const AxisCost& cost = f.axis(axis);
  return cost.calls == 0 ? "-" : percent(cost.share);
}

std::string activity_line(const std::string& scheme, const backend::Activity& a) {
  return fmt::format(
      "  {}: by the GPU's counters it was busy {}, multiprocessors {}, memory {}, {}\n", scheme,
      percent(a.busy), percent(a.sm_active), percent(a.dram_active),
      a.power_w ? fmt::format("{:.0f} W", *a.power_w) : "-");
}

std::string load_section(const VerifyReport& report, const LoadPoint& point) {
  std::vector<std::string> header = {"scheme",       "TTFT ms",    "TPOT ms", "ITL p99",
                                     "output tok/s", "busy",       "MFU",     "MBU",
                                     "eff. same",    "eff. grown", "tp comm", "pp comm"};
  if (report.has_experts) header.emplace_back("ep comm");
  header.insert(header.end(), {"KV hits", "preempted"});
  Table table(std::move(header));
  const std::vector<const SchemeResult*> timed = timed_at(report, point);
  std::string notes;
  for (const SchemeResult* r : timed) {
    const LoadResult& load = r->loads.at(point);
    const load::LoadSummary& s = load.summary;
    const Figures f = figures(*r, load);
    const std::string name = r->name();
    std::vector<std::string> row = {name,
                                    with_interval(s.ttft_ms, 2),
                                    with_interval(s.tpot_ms, 2),
                                    s.itl_ms.p99 ? fmt::format("{:.2f}", *s.itl_ms.p99) : "-",
                                    with_interval(s.output_tok_s, 0),
                                    percent(f.busy),
                                    percent(f.mfu),
                                    percent(f.mbu),
                                    percent(efficiency_same_load(report, *r, point)),
                                    percent(efficiency_growing_load(report, *r, point)),
                                    comm_cell(f, mesh::Axis::kTensor),
                                    comm_cell(f, mesh::Axis::kPipeline)};
    if (report.has_experts) row.push_back(comm_cell(f, mesh::Axis::kExpert));
    row.push_back(percent(load.kv_hit_rate()));
    row.push_back(std::to_string(load.preemptions));
    table.add(std::move(row));
    if (!load.activity.empty()) notes += activity_line(name, mean_activity(load));
    if (s.saturated) {
      notes += fmt::format("  {}: capacity exceeded, the queue grew to the end\n", name);
    }
    if (load.skipped_requests > 0) {
      notes += fmt::format("  {}: {} requests do not fit the context and were left out\n", name,
                           load.skipped_requests);
    }
    if (!s.invalid_reason.empty()) notes += fmt::format("  {}: {}\n", name, s.invalid_reason);
    if (std::max(f.mfu.value_or(0), f.mbu.value_or(0)) > 1) {
      notes += fmt::format(
          "  {}: above 100 %, as the peak was probed while the machine was slower\n", name);
    }
  }
  return point_title(report, point) + table.str() + notes +
         devices_note(report, most_devices(timed));
}

std::string winner_value(const std::string& objective, const Winner& w) {
  if (objective == "memory") return fmt::format("{:.1f} MiB on the fullest device", w.value / kMiB);
  return fmt::format("{:.4g} {}", w.value, w.unit);
}

/// What the axes cost at one point.
std::string communication_section(const VerifyReport& report, const LoadPoint& point) {
  Table table({"scheme", "axis", "seconds", "waiting", "KiB sent", "calls"});
  for (const SchemeResult* r : timed_at(report, point)) {
    const Figures f = figures(*r, r->loads.at(point));
    for (const auto& [axis, label] : named_axes()) {
      const AxisCost& c = f.axis(axis);
      if (c.calls == 0) continue;
      table.add({r->name(), label, fmt::format("{:.3f}", c.seconds),
                 fmt::format("{:.3f}", c.wait_seconds), fmt::format("{:.0f}", c.bytes / 1024),
                 fmt::format("{:.0f}", c.calls)});
    }
  }
  if (table.empty()) return "";
  return fmt::format("\nCommunication at {}, per rank and run; seconds include waiting\n",
                     point.name()) +
         table.str();
}

/// The layer whose experts got the least even part of the rows; for each layer there is no room.
std::string least_even_layer(const ExpertFigures& experts) {
  std::string out;
  double widest = -1;
  for (const auto& [layer, figures] : experts.layers) {
    const auto [least, most] = std::minmax_element(figures.rows.begin(), figures.rows.end());
    const int64_t all = std::accumulate(figures.rows.begin(), figures.rows.end(), int64_t{0});
    const auto share = [&](int64_t rows) {
      return 100 * static_cast<double>(rows) / static_cast<double>(all);
    };
    if (all == 0 || share(*most - *least) <= widest) continue;
    widest = share(*most - *least);
    out = fmt::format(
        "  least even is layer {}, whose {} experts took {:.1f} to {:.1f} % of its rows each; "
        "--json has all layers and experts\n",
        layer, figures.rows.size(), share(*least), share(*most));
  }
  return out;
}

/// How evenly the experts worked at one point.
std::string experts_section(const VerifyReport& report, const LoadPoint& point) {
  Table table({"scheme", "max/mean rows", "distinct experts", "steps without rows", "moving",
               "waiting", "held up by"},
              /*ends_with_words=*/true);
  std::string note;
  for (const SchemeResult* r : timed_at(report, point)) {
    const LoadResult& load = r->loads.at(point);
    const Figures f = figures(*r, load);
    const std::optional<ExpertFigures> experts = expert_figures(load, f);
    if (!experts) continue;
    // Which rows there are is the load's doing: the first scheme speaks for all.
    if (note.empty()) note = least_even_layer(*experts);
    const AxisCost& exchange = f.axis(mesh::Axis::kExpert);
    table.add({r->name(), fmt::format("{:.2f}", experts->imbalance),
               fmt::format("{:.2f}", experts->distinct_per_step),
               fmt::format("{:.1f}%", 100 * experts->zero_row_share),
               fmt::format("{:.1f}%", 100 * (exchange.share - exchange.wait_share)),
               fmt::format("{:.1f}%", 100 * exchange.wait_share), experts->binds});
  }
  if (table.empty()) return "";
  return fmt::format(
             "\nExperts at {}: rows of the fullest rank over the mean, experts a rank reads in a "
             "layer's step\n",
             point.name()) +
         table.str() + note;
}

std::string slo_section(const VerifyReport& report) {
  Table table({"scheme", "within the SLO", "beyond it", "runs"});
  for (const SchemeResult& r : report.schemes) {
    if (!r.slo_rate) continue;
    const auto rate = [](const std::optional<double>& v, const char* none) {
      return v ? fmt::format("{:.3g} requests/s", *v) : std::string(none);
    };
    // The search ends where it has tried enough, also below what a scheme can do.
    const bool open = r.slo_rate->met && !r.slo_rate->missed;
    table.add({r.name(), (open ? "at least " : "") + rate(r.slo_rate->met, "no rate tried"),
               rate(r.slo_rate->missed, "no rate tried"),
               std::to_string(r.slo_rate->probes.size())});
  }
  if (table.empty()) return "";
  return fmt::format("\nThe highest rate within {}\n", load::to_string(report.options.slo)) +
         table.str();
}

std::string laws_section(const VerifyReport& report) {
  std::string out = "\nCommon laws, here\n";
  for (const Law& law : laws(report)) {
    out += fmt::format("  {:<10} {}\n             {}\n", name_of(law.verdict), law.statement,
                       law.evidence);
  }
  return out;
}

std::string starts_section(const VerifyReport& report, const LoadPoint& point) {
  std::string out = "\nStart a scheme, in fourfold's and in vLLM's words\n";
  for (const SchemeResult* r : timed_at(report, point)) {
    out += fmt::format("  {:<10} {}\n  {:<10} {}\n", r->name(),
                       start_command(report.options, r->scheme), "",
                       vllm_command(report.options, r->scheme, report.has_experts));
  }
  return out;
}

std::string definitions_section(const VerifyReport& report) {
  // The names that the tables above show; the JSON has all of them.
  std::vector<std::pair<std::string, std::string>> names = {
      {"ttft_ms", "TTFT"},      {"tpot_ms", "TPOT"}, {"itl_ms", "ITL"},
      {"device_busy", "busy"},  {"mfu", "MFU"},      {"mbu", "MBU"},
      {"efficiency", "eff."},   {"comm", "comm"},    {"invariant_cost", "cost"},
      {"tie", "not told apart"}};
  if (report.has_experts) {
    names.insert(names.end(), {{"expert_imbalance", "max/mean rows"}, {"experts", "experts"}});
  }
  std::string out = "\nDefinitions\n";
  for (const auto& [name, sentence] : definitions()) {
    const auto it = std::find_if(names.begin(), names.end(), [&, &key = name](const auto& shown) {
      return shown.first == key;
    });
    if (it != names.end()) out += fmt::format("  {}: {}\n", it->second, sentence);
  }
  return out;
}

}  // namespace

std::string point_title(const VerifyReport& report, const LoadPoint& point) {
  const VerifyOptions& o = report.options;
  const std::string what = point.concurrency > 0 ? fmt::format("Concurrency {}", point.concurrency)
                                                 : fmt::format("{:.4g} requests/s", point.rate);
  std::string load;
  if (o.trace) {
    load = fmt::format("{} of the {} requests of {}, lengths times {:g}", requests_at(o, point),
                       o.trace->trace.records.size(), o.trace->path, o.trace->length_scale);
  } else {
    load = fmt::format("{} requests of {} + {} tokens", requests_at(o, point) * o.turns,
                       o.input_len, o.output_len);
    if (o.shared_prefix > 0) load += fmt::format(", {} more shared by all", o.shared_prefix);
    if (o.turns > 1) load += fmt::format(", {} turns a conversation", o.turns);
  }
  if (o.sampling.temperature > 0) {
    load += fmt::format(", drawn at temperature {:g}", o.sampling.temperature);
    if (o.sampling.top_k > 0) load += fmt::format(", top-k {}", o.sampling.top_k);
    if (o.sampling.top_p < 1) load += fmt::format(", top-p {:g}", o.sampling.top_p);
    if (o.sampling.min_p > 0) load += fmt::format(", min-p {:g}", o.sampling.min_p);
  }
  return fmt::format("\n{}: {}, {} repeat{}, mean ± 95 % interval\n", what, load, o.repeats,
                     plural(o.repeats));
}

std::string ranking_section(const VerifyReport& report, const LoadPoint& point) {
  static const std::vector<std::pair<std::string, std::string>> kObjectives = {
      {"ttft", "TTFT"},       {"tpot", "TPOT"},     {"throughput", "throughput"},
      {"goodput", "goodput"}, {"memory", "memory"}, {"concurrency", "concurrency"}};
  const std::map<std::string, Winner> best = winners(report, point);
  std::string out;
  for (const auto& [key, label] : kObjectives) {
    const auto it = best.find(key);
    if (it == best.end()) continue;
    const Winner& w = it->second;
    out += fmt::format("  best {:<12} {}, {}", label + ":", w.scheme->name(), winner_value(key, w));
    if (!w.limit.empty()) out += "; bound by " + w.limit;
    if (!w.tie.empty()) out += fmt::format("; not told apart from {}", fmt::join(w.tie, ", "));
    out += "\n";
  }
  return out;
}

std::string devices_note(const VerifyReport& report, int devices) {
  const int gpus = report.machine.gpus;
  if (gpus > 0) {
    if (devices <= gpus) return "";
    return fmt::format(
        "  {} devices share {} {}: their answers are proven, their speeds are not those of {} "
        "GPUs.\n",
        devices, gpus == 1 ? "one" : std::to_string(gpus), report.machine.gpu, devices);
  }
  const int cpus = devices * report.options.cluster.cpus_per_device;
  if (cpus <= report.machine.cores) return "";
  return fmt::format(
      "  {} devices of {} core{} each share {} cores: their answers are proven, their "
      "speeds are not those of {} devices.\n",
      devices, report.options.cluster.cpus_per_device,
      plural(report.options.cluster.cpus_per_device), report.machine.cores, devices);
}

std::string to_text(const VerifyReport& report) {
  if (report.served()) return served_text(report);
  std::string out = fmt::format(
      "\n{} ({}, {:.1f} M parameters), backend {}, timed in {} numerics\n{}, {} core{}; fourfold "
      "{} "
      "{}\n\n",
      report.options.cluster.model, report.model_family,
      static_cast<double>(report.parameters) * 1e-6, report.backend,
      report.options.numerics == base::Numerics::kFast ? "fast" : "invariant",
      report.machine.gpus == 0
          ? report.machine.cpu
          : fmt::format("{} {}, {}", report.machine.gpus, report.machine.gpu, report.machine.cpu),
      report.machine.cores, plural(report.machine.cores), base::version(), base::commit());
  if (report.interrupted) {
    out += "Interrupted: these are the repeats that every scheme had finished.\n\n";
  }
  out += answers_section(report);
  for (const LoadPoint& point : report.points) {
    if (timed_at(report, point).empty()) continue;
    out += load_section(report, point) + ranking_section(report, point);
  }
  out += slo_section(report);
  if (!report.points.empty() && !timed_at(report, report.points.back()).empty()) {
    out += communication_section(report, report.points.back()) +
           experts_section(report, report.points.back()) + laws_section(report) +
           definitions_section(report) + starts_section(report, report.points.back());
  }
  for (const SchemeResult& r : report.schemes) {
    if (!r.legal) out += fmt::format("{} is not legal: {}\n", r.name(), r.reason);
  }
  return out;
}

}  // namespace fourfold::verify
