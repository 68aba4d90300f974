#include "verify/report.h"

#include <algorithm>
#include <fstream>
#include <thread>

#include "base/version.h"

namespace fourfold::verify {
namespace {

constexpr int kSchema = 1;
constexpr double kMiB = 1024.0 * 1024.0;

const std::vector<std::pair<mesh::Axis, std::string>>& axes() {
  static const std::vector<std::pair<mesh::Axis, std::string>> kAxes = {
      {mesh::Axis::kTensor, "tp"}, {mesh::Axis::kPipeline, "pp"}};
  return kAxes;
}

/// Characters of UTF-8 text.
size_t characters(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

/// Columns as wide as their widest cell; the first is left-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  std::string str() const {
    std::vector<size_t> widths(rows_.front().size());
    for (const auto& row : rows_) {
      for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], characters(row[i]));
    }
    std::string out;
    for (const auto& row : rows_) {
      std::string line;
      for (size_t i = 0; i < row.size(); ++i) {
        line += i == 0 ? fmt::format("  {:<{}}", row[i], widths[i])
                       : fmt::format("  {:>{}}", row[i], widths[i]);
      }
      line.erase(line.find_last_not_of(' ') + 1);
      out += line + "\n";
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::string with_interval(const load::Summary& s, int digits) {
  if (!s.mean) return "-";
  if (!s.ci95) return fmt::format("{:.{}f}", *s.mean, digits);
  return fmt::format("{:.{}f} ±{:.{}f}", *s.mean, digits, *s.ci95, digits);
}

std::string percent(double share) { return fmt::format("{:.1f}%", 100 * share); }

}  // namespace

std::string devices_note(const VerifyReport& report, int devices) {
  const int cpus = devices * report.options.cluster.cpus_per_device;
  if (cpus <= report.machine.cores) return "";
  return fmt::format(
      "  {} devices of {} core{} each share {} cores: their answers are proven, their "
      "speeds are not those of {} devices.\n",
      devices, report.options.cluster.cpus_per_device,
      report.options.cluster.cpus_per_device == 1 ? "" : "s", report.machine.cores, devices);
}

namespace {

std::string answer_cell(const VerifyReport& report, const SchemeResult& r) {
  if (!r.failure.empty()) return "FAILED";
  if (!r.answers) return "-";
  if (!r.answers->equal) return "DIFFER";
  return r.scheme == report.baseline ? "baseline" : "bit-equal";
}

std::string answers_section(const VerifyReport& report) {
  std::string out = fmt::format(
      "Answers, compared bit for bit with {} (tokens, logits and the residual after every layer)\n",
      mesh::scheme_name(report.baseline));
  Table table({"scheme", "devices", "answers", "equal tokens", "compared", "MiB/device", "load s"});
  for (const SchemeResult& r : report.schemes) {
    if (!r.legal) continue;
    const double mib = static_cast<double>(r.weight_bytes + r.kv_bytes + r.activation_bytes) / kMiB;
    table.add({mesh::scheme_name(r.scheme), std::to_string(r.scheme.devices()),
               answer_cell(report, r), r.answers ? percent(r.answers->equal_token_share) : "-",
               r.answers ? fmt::format("{} values", r.answers->compared_hashes) : "-",
               fmt::format("{:.1f}", mib), fmt::format("{:.2f}", r.load_s)});
  }
  out += table.str();
  int most_devices = 0;
  for (const SchemeResult& r : report.schemes) {
    if (r.legal) most_devices = std::max(most_devices, r.scheme.devices());
  }
  out += devices_note(report, most_devices);
  for (const SchemeResult& r : report.schemes) {
    if (r.answers && r.answers->first_difference) {
      out += fmt::format("  {} first differs at {}\n", mesh::scheme_name(r.scheme),
                         r.answers->first_difference->describe());
    }
    if (!r.failure.empty()) {
      out += fmt::format("  {} failed: {}\n", mesh::scheme_name(r.scheme), r.failure);
    }
  }
  return out;
}

std::string comm_cell(const LoadResult& load, mesh::Axis axis) {
  const auto it = load.comm.find(axis);
  if (it == load.comm.end() || it->second.calls == 0) return "-";
  return percent(it->second.share);
}

std::string load_section(const VerifyReport& report, int concurrency) {
  std::string out = fmt::format(
      "\nConcurrency {}: {} requests of {} + {} tokens, {} repeat{}, mean ± 95 % interval\n",
      concurrency, requests_at(report.options, concurrency), report.options.input_len,
      report.options.output_len, report.options.repeats, report.options.repeats == 1 ? "" : "s");
  Table table({"scheme", "TTFT ms", "TPOT ms", "ITL p99", "output tok/s", "total tok/s", "busy",
               "tp comm", "pp comm", "KV hits", "KV peak", "preempted"});
  int most_devices = 0;
  for (const SchemeResult& r : report.schemes) {
    const auto it = r.loads.find(concurrency);
    if (it == r.loads.end() || !r.failure.empty()) continue;
    const LoadResult& load = it->second;
    most_devices = std::max(most_devices, r.scheme.devices());
    const load::LoadSummary& s = load.summary;
    table.add({mesh::scheme_name(r.scheme), with_interval(s.ttft_ms, 2),
               with_interval(s.tpot_ms, 2),
               s.itl_ms.p99 ? fmt::format("{:.2f}", *s.itl_ms.p99) : "-",
               with_interval(s.output_tok_s, 0), with_interval(s.total_tok_s, 0),
               percent(load.busy), comm_cell(load, mesh::Axis::kTensor),
               comm_cell(load, mesh::Axis::kPipeline), percent(load.kv_hit_rate()),
               percent(load.kv_peak_share), std::to_string(load.preemptions)});
  }
  return out + table.str() + devices_note(report, most_devices);
}

/// What the axes cost at one concurrency, and how to start each scheme.
std::string details_section(const VerifyReport& report, int concurrency) {
  std::string out =
      fmt::format("\nCommunication at concurrency {}, per rank and run; seconds include waiting\n",
                  concurrency);
  Table table({"scheme", "axis", "seconds", "waiting", "KiB sent", "calls"});
  std::string starts = "\nStart a scheme\n";
  bool any = false;
  for (const SchemeResult& r : report.schemes) {
    const auto it = r.loads.find(concurrency);
    if (it == r.loads.end()) continue;
    const std::string name = mesh::scheme_name(r.scheme);
    starts += fmt::format("  {:<10} {}\n", name, start_command(report, r.scheme));
    for (const auto& [axis, label] : axes()) {
      const auto cost = it->second.comm.find(axis);
      if (cost == it->second.comm.end() || cost->second.calls == 0) continue;
      any = true;
      const AxisCost& c = cost->second;
      table.add({name, label, fmt::format("{:.3f}", c.seconds),
                 fmt::format("{:.3f}", c.wait_seconds), fmt::format("{:.0f}", c.bytes / 1024),
                 fmt::format("{:.0f}", c.calls)});
    }
  }
  return (any ? out + table.str() : "") + starts;
}

std::string ranking_section(const VerifyReport& report, int concurrency) {
  static const std::vector<std::pair<std::string, std::string>> kObjectives = {
      {"ttft", "TTFT"}, {"tpot", "TPOT"}, {"throughput", "throughput"}};
  const std::map<std::string, Winner> best = winners(report, concurrency);
  std::string out;
  for (const auto& [key, label] : kObjectives) {
    const auto it = best.find(key);
    if (it == best.end()) continue;
    out += fmt::format("  best {:<11} {}", label + ":", it->second.scheme);
    if (!it->second.tie.empty()) {
      out += fmt::format(" (not told apart from {})", fmt::join(it->second.tie, ", "));
    }
    out += "\n";
  }
  return out;
}

nlohmann::ordered_json to_json(const load::Summary& s) {
  const auto optional = [](const std::optional<double>& v) {
    return v ? nlohmann::ordered_json(*v) : nlohmann::ordered_json();
  };
  return {{"mean", optional(s.mean)},
          {"p50", optional(s.p50)},
          {"p90", optional(s.p90)},
          {"p99", optional(s.p99)},
          {"ci95", optional(s.ci95)}};
}

nlohmann::ordered_json to_json(const AnswerVerdict& verdict) {
  nlohmann::ordered_json out = {{"equal", verdict.equal},
                                {"equal_token_share", verdict.equal_token_share},
                                {"compared", verdict.compared_hashes},
                                {"missing", verdict.missing_hashes},
                                {"first_difference", nullptr}};
  if (verdict.first_difference) {
    const Difference& d = *verdict.first_difference;
    nlohmann::ordered_json layer = d.layer;
    if (d.layer == kLogitsLayer) layer = "logits";
    if (d.layer == kTokenLayer) layer = "token";
    out["first_difference"] = {{"request", d.request}, {"position", d.position}, {"layer", layer}};
  }
  return out;
}

nlohmann::ordered_json scheme_json(const VerifyReport& report, const SchemeResult& r) {
  const mesh::ParallelConfig& c = r.scheme;
  return {{"scheme", mesh::scheme_name(c)},
          {"tp", c.tp},
          {"pp", c.pp},
          {"dp", c.dp},
          {"ep", c.ep},
          {"etp", c.etp},
          {"devices", c.devices()},
          {"legal", r.legal},
          {"reason", r.reason},
          {"failure", r.failure},
          {"answers", r.answers ? to_json(*r.answers) : nlohmann::ordered_json()},
          {"memory_bytes",
           {{"weights", r.weight_bytes}, {"kv", r.kv_bytes}, {"activations", r.activation_bytes}}},
          {"load_s", r.load_s},
          {"start_command", start_command(report, r.scheme)}};
}

nlohmann::ordered_json load_json(const LoadResult& load, int concurrency) {
  const load::LoadSummary& s = load.summary;
  nlohmann::ordered_json comm;
  for (const auto& [axis, name] : axes()) {
    const auto it = load.comm.find(axis);
    const AxisCost cost = it == load.comm.end() ? AxisCost{} : it->second;
    comm[name] = {{"seconds", cost.seconds},
                  {"wait_seconds", cost.wait_seconds},
                  {"bytes", cost.bytes},
                  {"calls", cost.calls}};
  }
  return {{"concurrency", concurrency},
          {"requests", s.requests},
          {"failed_requests", s.failed},
          {"metrics",
           {{"ttft_ms", to_json(s.ttft_ms)},
            {"tpot_ms", to_json(s.tpot_ms)},
            {"itl_ms", to_json(s.itl_ms)},
            {"e2e_ms", to_json(s.e2e_ms)},
            {"output_tok_s", to_json(s.output_tok_s)},
            {"total_tok_s", to_json(s.total_tok_s)},
            {"requests_s", to_json(s.requests_s)}}},
          {"device_busy", load.busy},
          {"kv",
           {{"hit_rate", load.kv_hit_rate()},
            {"peak_share", load.kv_peak_share},
            {"preemptions", load.preemptions}}},
          {"comm", comm}};
}

nlohmann::ordered_json winners_json(const VerifyReport& report, int concurrency) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const auto& [objective, winner] : winners(report, concurrency)) {
    out[objective] = {{"scheme", winner.scheme}, {"tie", winner.tie}};
  }
  return out;
}

}  // namespace

namespace {
/// The load that stands for a scheme where one is asked for.
int largest_concurrency(const VerifyReport& report) {
  const std::vector<int>& all = report.options.concurrencies;
  return *std::max_element(all.begin(), all.end());
}
}  // namespace

bool VerifyReport::ok() const {
  return std::all_of(schemes.begin(), schemes.end(),
                     [](const SchemeResult& r) { return !r.legal || r.ok(); });
}

std::map<std::string, Winner> winners(const VerifyReport& report, int concurrency) {
  std::vector<const SchemeResult*> timed;
  for (const SchemeResult& r : report.schemes) {
    if (r.failure.empty() && r.loads.contains(concurrency)) timed.push_back(&r);
  }
  std::map<std::string, Winner> out;
  if (timed.empty()) return out;
  const auto add = [&](const std::string& name, bool lower_is_better, auto value) {
    const auto has_values = [&](const SchemeResult* r) {
      const std::vector<load::RunMetrics>& runs = r->loads.at(concurrency).repeats;
      return std::all_of(runs.begin(), runs.end(), [&](const auto& m) { return value(m) > 0; });
    };
    if (!std::all_of(timed.begin(), timed.end(), has_values)) return;
    std::vector<std::vector<double>> values;
    for (const SchemeResult* r : timed) {
      std::vector<double>& repeats = values.emplace_back();
      for (const load::RunMetrics& run : r->loads.at(concurrency).repeats) {
        repeats.push_back(value(run));
      }
    }
    const load::Ranking ranking = load::rank(values, lower_is_better);
    Winner winner{.scheme = mesh::scheme_name(timed[ranking.best]->scheme), .tie = {}};
    for (const size_t i : ranking.ties) winner.tie.push_back(mesh::scheme_name(timed[i]->scheme));
    out.emplace(name, std::move(winner));
  };
  add("ttft", true, [](const load::RunMetrics& m) { return load::mean(m.ttft_ms); });
  add("tpot", true, [](const load::RunMetrics& m) { return load::mean(m.tpot_ms); });
  add("throughput", false, [](const load::RunMetrics& m) { return m.output_tok_s; });
  return out;
}

std::string start_command(const VerifyReport& report, const mesh::ParallelConfig& scheme) {
  const runtime::ClusterConfig& c = report.options.cluster;
  const bool has_text = !c.dummy_weights;
  std::string out = fmt::format("fourfold {} '{}'", has_text ? "generate" : "verify", c.model);
  if (has_text) {
    out += " 'YOUR PROMPT'";
    if (scheme.tp > 1) out += fmt::format(" -tp {}", scheme.tp);
    if (scheme.pp > 1) out += fmt::format(" -pp {}", scheme.pp);
    if (scheme.dp > 1) out += fmt::format(" -dp {}", scheme.dp);
  } else {
    out += fmt::format(" --load-format dummy --schemes {}", mesh::scheme_name(scheme));
  }
  if (c.backend != "cpu") out += " --backend " + c.backend;
  if (!c.isa.empty()) out += " --isa " + c.isa;
  if (c.cpus_per_device != 1) out += fmt::format(" --cpus-per-device {}", c.cpus_per_device);
  if (c.ranks == runtime::RankMode::kThreads) out += " --ranks threads";
  return out;
}

std::string to_text(const VerifyReport& report) {
  std::string out = fmt::format(
      "\n{} ({}, {:.1f} M parameters), backend {}, invariant numerics\n{}, {} core{}; fourfold {} "
      "{}\n\n",
      report.options.cluster.model, report.model_family,
      static_cast<double>(report.parameters) * 1e-6, report.backend, report.machine.cpu,
      report.machine.cores, report.machine.cores == 1 ? "" : "s", base::version(), base::commit());
  out += answers_section(report);
  for (const int concurrency : report.options.concurrencies) {
    const bool any =
        std::any_of(report.schemes.begin(), report.schemes.end(),
                    [&](const SchemeResult& r) { return r.loads.contains(concurrency); });
    if (any) out += load_section(report, concurrency) + ranking_section(report, concurrency);
  }
  const int largest = largest_concurrency(report);
  if (!winners(report, largest).empty()) out += details_section(report, largest);
  for (const SchemeResult& r : report.schemes) {
    if (!r.legal)
      out += fmt::format("{} is not legal: {}\n", mesh::scheme_name(r.scheme), r.reason);
  }
  return out;
}

nlohmann::ordered_json to_json(const VerifyReport& report) {
  const VerifyOptions& o = report.options;
  nlohmann::ordered_json out;
  out["schema"] = kSchema;
  out["version"] = base::version();
  out["commit"] = base::commit();
  out["command"] = o.command;
  out["seed"] = o.seed;
  out["machine"] = {{"cpu", report.machine.cpu},
                    {"isa", report.machine.isa},
                    {"cores", report.machine.cores},
                    {"gpus", nlohmann::ordered_json::array()}};
  out["model"] = {{"name", o.cluster.model},
                  {"family", report.model_family},
                  {"parameters", report.parameters},
                  {"dummy_weights", o.cluster.dummy_weights}};
  out["load"] = {{"input_len", o.input_len},
                 {"output_len", o.output_len},
                 {"concurrency", o.concurrencies},
                 {"repeats", o.repeats}};
  out["numerics"] = "invariant";
  out["backend"] = report.backend;
  out["cpus_per_device"] = o.cluster.cpus_per_device;
  out["baseline"] = mesh::scheme_name(report.baseline);
  out["schemes"] = nlohmann::ordered_json::array();
  for (const SchemeResult& r : report.schemes) {
    nlohmann::ordered_json scheme = scheme_json(report, r);
    scheme["loads"] = nlohmann::ordered_json::array();
    for (const auto& [concurrency, load] : r.loads) {
      scheme["loads"].push_back(load_json(load, concurrency));
    }
    // The load with the most requests at once stands for the scheme where one is asked for.
    if (!r.loads.empty())
      scheme.update(load_json(r.loads.rbegin()->second, r.loads.rbegin()->first));
    out["schemes"].push_back(std::move(scheme));
  }
  out["winners"] = winners_json(report, largest_concurrency(report));
  out["winners_by_concurrency"] = nlohmann::ordered_json::array();
  for (const int concurrency : o.concurrencies) {
    out["winners_by_concurrency"].push_back(
        {{"concurrency", concurrency}, {"winners", winners_json(report, concurrency)}});
  }
  return out;
}

MachineFacts machine_facts(const std::string& isa) {
  MachineFacts out{.cpu = "unknown processor",
                   .isa = isa,
                   .cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()))};
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (line.starts_with("model name") && colon != std::string::npos) {
      out.cpu = line.substr(std::min(colon + 2, line.size()));
      break;
    }
  }
  return out;
}

}  // namespace fourfold::verify
