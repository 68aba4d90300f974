#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string_view>

#include "base/machine.h"
#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "cli/flags.h"
#include "cli/progress_line.h"
#include "load/trace.h"
#include "model/source.h"
#include "verify/engines.h"
#include "verify/html/report_csv.h"
#include "verify/html/report_html.h"
#include "verify/json_report.h"
#include "verify/report.h"
#include "verify/run.h"

namespace fourfold::cli {
namespace {

constexpr std::string_view kFooter = R"(
What it does: first every scheme answers eight requests in invariant numerics, half greedy and half
sampled, and its tokens, logits and the residual after every layer are compared bit for bit with one
device's. Then each scheme runs the load in --numerics (default fast) --repeats times, in turn, on the
same prompts; it is warmed up and its prefix cache is empty at the start of each run. One device is
always timed too, where it is legal: efficiencies refer to it.

The load: a closed loop (--concurrency), an open loop with Poisson or gamma arrivals (--rate,
--burstiness), or a trace (--trace; with --rate its pattern at another mean rate). An open loop that asks
for more than a scheme can do is reported as capacity exceeded and not as a latency; a run in which the
client could not keep its own schedule is invalid. --shared-prefix and --turns make prefix-cache hits.

What it prints: means with 95 % intervals over the repeats, percentiles where enough requests stand behind
them, where each device's time went, the winner of each objective with what binds it and the schemes that
cannot be told from it, four common laws with the evidence of this run, and the definitions. --report has
all of it with plots, --json and --csv for programs (docs/verify-json.md).

Without any flag but --report it measures tiny, proves the schemes A to D of it, and then measures tiny-moe
with and without EP; that one's report has "-tiny-moe" in its name.

Other engines: --engine vllm starts `vllm serve` for each scheme, with its own flags, one at a time, and
measures it over HTTP; --engine fourfold,vllm measures both so, side by side; --engine openai --url measures
servers that run already (docs/verify-engines.md). Their answers are compared with each other, not proven.

Ctrl-C ends the run in order and gives the results of the repeats that every scheme has finished.

Exit code: 0 all equal and measured, 1 something failed or differed, 2 a flag that makes no sense.

Examples:
  fourfold verify tiny --devices 8 --schemes A,B,C,D
  fourfold verify HF_FOLDER --devices 2 --concurrency 1,4,16 --repeats 5 --report out.html
  fourfold verify MODEL --rate 2,4,8 --slo ttft=500ms,tpot=50ms
  fourfold verify MODEL --concurrency auto --json out.json
  fourfold verify MODEL --trace mooncake_conversation.jsonl --trace-scale 0.01 --requests 200
  fourfold verify MODEL --schemes tp2,dp2,pp2 --shared-prefix 256 --turns 3
  fourfold verify tiny-moe --devices 4 --expert-exchange alltoall
  fourfold verify mixtral-8x7b --devices 8 --dry-run
  fourfold verify HF_FOLDER --engine vllm --devices 2 --schemes tp1,tp2,pp2,dp2 --concurrency 1,4
  fourfold verify HF_FOLDER --engine openai --url http://a:8000,http://b:8000 --label "tp4pp2 prod")";

constexpr std::string_view kAutoConcurrency = "auto";

struct VerifyFlags {
  ModelFlags model;
  EngineFlags engines;
  int devices = 0;
  std::string schemes;
  int input_len = 64;
  int output_len = 32;
  int shared_prefix = 0;
  SamplingFlags sampling;
  int turns = 1;
  std::string concurrency;
  std::string rates;
  double burstiness = 1;
  std::string trace;
  double trace_scale = 1;
  bool trace_skip_too_long = false;
  std::string slo;
  bool find_rate = false;
  int requests = 0;
  int repeats = 3;
  uint64_t seed = 0;
  std::string json;
  std::string csv;
  std::string report;
  bool dry_run = false;
  bool bare = false;  ///< neither a model nor a load was named
};

base::Result<std::vector<mesh::ParallelConfig>> parse_schemes(const std::string& text) {
  std::vector<mesh::ParallelConfig> out;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    FF_ASSIGN(const mesh::ParallelConfig scheme,
              mesh::parse_scheme(text.substr(begin, end - begin)));
    out.push_back(scheme);
    begin = end + 1;
  }
  return out;
}

/// The legal schemes of exactly `devices` devices; for a dry run also the others, with their
/// reasons.
base::Result<std::vector<mesh::ParallelConfig>> schemes_of(const VerifyFlags& flags, int devices,
                                                           const mesh::ModelDivisors& model,
                                                           const mesh::ExpertPlacement& placement) {
  std::vector<mesh::ParallelConfig> out;
  for (const mesh::ParallelConfig& scheme : mesh::schemes(devices, model)) {
    if (flags.dry_run || mesh::Mesh::create(scheme, model, placement).ok()) out.push_back(scheme);
  }
  if (out.empty()) {
    return base::fail("{} has no legal scheme for {} devices; --dry-run says why",
                      flags.model.model, devices);
  }
  return out;
}

/// "2,4.5" as different positive numbers.
base::Result<std::vector<double>> parse_rates(const std::string& text) {
  constexpr double kMost = 1e6;
  std::vector<double> out;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    double value = 0;
    const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end, value);
    if (error != std::errc() || stop != text.data() + end || !(value > 0) || value > kMost ||
        std::find(out.begin(), out.end(), value) != out.end()) {
      return base::fail("\"{}\": expected different positive numbers such as 2,4.5", text);
    }
    out.push_back(value);
    begin = end + 1;
  }
  return out;
}

base::Result<std::vector<int>> parse_concurrency(const std::string& text) {
  if (text == kAutoConcurrency) return std::vector<int>{1};
  return parse_int_list(text);
}

/// What is sent, when and how often.
base::Status set_load(const VerifyFlags& flags, verify::VerifyOptions& options) {
  options.input_len = flags.input_len;
  options.output_len = flags.output_len;
  options.shared_prefix = flags.shared_prefix;
  options.sampling = flags.sampling.params();
  options.turns = flags.turns;
  options.requests = flags.requests;
  options.repeats = flags.repeats;
  options.seed = flags.seed;
  options.burstiness = flags.burstiness;
  options.find_rate = flags.find_rate;
  options.sweep = flags.concurrency == kAutoConcurrency;
  if (!flags.slo.empty()) {
    FF_ASSIGN(options.slo, load::parse_slo(flags.slo));
  }
  if (flags.find_rate && flags.slo.empty()) {
    return base::fail(
        "--find-rate needs to know which rate is good enough: add for example --slo "
        "ttft=500ms,tpot=50ms");
  }
  if (!flags.rates.empty()) {
    FF_ASSIGN(options.rates, parse_rates(flags.rates));
  }
  if (!flags.trace.empty()) {
    FF_ASSIGN(load::Trace trace, load::read_trace(flags.trace));
    options.trace = verify::TraceOptions{.path = flags.trace,
                                         .trace = std::move(trace),
                                         .length_scale = flags.trace_scale,
                                         .skip_too_long = flags.trace_skip_too_long};
  }
  if (!flags.concurrency.empty()) {
    FF_ASSIGN(options.concurrencies, parse_concurrency(flags.concurrency));
  } else if (options.trace || !options.rates.empty()) {
    options.concurrencies.clear();
  } else {
    // With a point that is larger by the number of devices scaling can be seen.
    options.concurrencies = {1, 8};
    if (options.devices > 1) options.concurrencies.push_back(8 * options.devices);
  }
  return {};
}

base::Status check_devices(const VerifyFlags& flags,
                           const std::vector<mesh::ParallelConfig>& schemes) {
  for (const mesh::ParallelConfig& scheme : schemes) {
    if (flags.devices > 0 && scheme.devices() != flags.devices && scheme.devices() != 1) {
      return base::fail("{} uses {} devices, --devices says {}", mesh::scheme_name(scheme),
                        scheme.devices(), flags.devices);
    }
  }
  return {};
}

base::Status set_schemes(const VerifyFlags& flags, verify::VerifyOptions& options) {
  FF_ASSIGN(const model::ModelSource source, runtime::open_source(options.cluster));
  const mesh::ModelDivisors divisors = source.spec.divisors();
  const mesh::ExpertPlacement& placement = options.cluster.expert_placement;
  const mesh::ParallelConfig one_device;
  if (!flags.schemes.empty()) {
    FF_ASSIGN(options.schemes, parse_schemes(flags.schemes));
    for (const mesh::ParallelConfig& scheme : options.schemes) {
      const auto mesh = mesh::create_or_suggest(scheme, divisors, placement);
      if (!mesh.ok() && !flags.dry_run) return mesh.error();
    }
    FF_TRY(check_devices(flags, options.schemes));
  } else {
    FF_ASSIGN(options.schemes, schemes_of(flags, options.devices, divisors, placement));
  }
  if (flags.dry_run) return {};
  options.schemes.insert(options.schemes.begin(), one_device);
  if (flags.bare) {  // only the answers: more ranks than most machines have cores
    for (const char* named : {"A", "B", "C", "D"}) {
      options.answer_only_schemes.push_back(mesh::parse_scheme(named).value());
    }
  }
  return {};
}

/// One device, and each parallelism of its own on all of them: engines take long to start.
std::vector<mesh::ParallelConfig> served_schemes(const verify::VerifyOptions& options) {
  std::vector<mesh::ParallelConfig> out = {{}};
  if (options.devices > 1) {
    out.push_back({.tp = options.devices});
    out.push_back({.pp = options.devices});
    out.push_back({.dp = options.devices});
  }
  return out;
}

/// Without a word from the user it should be over in a minute, on a large machine, too.
int devices_of(const VerifyFlags& flags) {
  constexpr int kMostDevices = 8;
  if (flags.devices > 0) return flags.devices;
  if (backend::chosen_backend(flags.model.backend, flags.model.isa) == "cuda") {
    const auto ops = backend::make_ops("cuda", "");
    if (ops.ok()) return std::min((*ops)->gpus(), kMostDevices);
  }
  const int cores = std::max(1, static_cast<int>(base::usable_cpus().size()));
  return std::clamp(cores / flags.model.cpus_per_device, 1, kMostDevices);
}

base::Result<verify::VerifyOptions> make_options(const VerifyFlags& flags,
                                                 const std::string& command_line) {
  verify::VerifyOptions options;
  FF_ASSIGN(options.cluster, flags.model.cluster_config());
  if (flags.dry_run) options.cluster.dummy_weights = true;
  options.numerics = flags.model.numerics_of_steps();
  options.command = command_line;
  options.devices = devices_of(flags);
  FF_TRY(set_load(flags, options));
  if (flags.engines.given()) {
    FF_TRY(flags.engines.set(flags.model, options));
    if (!flags.schemes.empty()) {
      FF_ASSIGN(options.schemes, parse_schemes(flags.schemes));
      FF_TRY(check_devices(flags, options.schemes));
    } else {
      options.schemes = served_schemes(options);
    }
    return options;
  }
  FF_TRY(set_schemes(flags, options));
  return options;
}

int print_plan(const verify::VerifyReport& report) {
  constexpr double kMiB = 1024.0 * 1024.0;
  size_t width = 0;  // of the longest name
  int most_devices = 0;
  size_t legal = 0;
  for (const verify::SchemeResult& r : report.schemes) {
    width = std::max(width, mesh::scheme_name(r.scheme).size());
    most_devices = std::max(most_devices, r.scheme.devices());
    legal += r.legal ? 1 : 0;
  }
  fmt::print(
      "{} ({}, {:.1f} M parameters) on backend {}: {} of {} schemes legal; memory of the "
      "fullest device in MiB\n\n",
      report.options.cluster.model, report.model_family,
      static_cast<double>(report.parameters) * 1e-6, report.backend, legal, report.schemes.size());
  fmt::print("  {:<{}}{:>9}{:>12}{:>12}{:>14}{:>12}\n", "scheme", width, "devices", "weights",
             "KV cache", "activations", "total");
  for (const verify::SchemeResult& r : report.schemes) {
    if (!r.legal) continue;
    fmt::print("  {:<{}}{:>9}{:>12.1f}{:>12.1f}{:>14.1f}{:>12.1f}\n", mesh::scheme_name(r.scheme),
               width, r.scheme.devices(), static_cast<double>(r.weight_bytes) / kMiB,
               static_cast<double>(r.kv_bytes) / kMiB,
               static_cast<double>(r.activation_bytes) / kMiB,
               static_cast<double>(r.planned_bytes()) / kMiB);
  }
  if (legal < report.schemes.size()) fmt::print("\nNot legal:\n");
  for (const verify::SchemeResult& r : report.schemes) {
    if (!r.legal) fmt::print("  {:<{}}  {}\n", mesh::scheme_name(r.scheme), width, r.reason);
  }
  fmt::print("\n{}", verify::devices_note(report, most_devices));
  return 0;
}

base::Status check_outputs(const VerifyFlags& flags) {
  std::vector<std::string> paths = {flags.json, flags.csv, flags.report};
  std::erase(paths, "");
  std::sort(paths.begin(), paths.end());
  const auto twice = std::adjacent_find(paths.begin(), paths.end());
  if (twice != paths.end()) {
    return base::fail("{} would be written twice: give --json, --csv and --report a file each",
                      *twice);
  }
  if (flags.dry_run && !paths.empty()) {
    return base::fail("a dry run measures nothing that {} could hold: leave it out", paths.front());
  }
  FF_TRY(check_writable("--json", flags.json));
  FF_TRY(check_writable("--csv", flags.csv));
  return check_writable("--report", flags.report);
}

base::Status write_outputs(const VerifyFlags& flags, const verify::VerifyReport& report) {
  if (flags.json.empty() && flags.csv.empty() && flags.report.empty()) return {};
  const nlohmann::ordered_json json = verify::to_json(report);
  if (!flags.json.empty()) {
    FF_TRY(write_file(
        "--json", flags.json,
        json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n"));
    fmt::print("\nAll figures for programs: {}\n", flags.json);
  }
  if (!flags.csv.empty()) {
    FF_TRY(write_file("--csv", flags.csv, verify::to_csv(json)));
    fmt::print("\nOne row a scheme and load: {}\n", flags.csv);
  }
  if (!flags.report.empty()) {
    FF_ASSIGN(const std::string html, verify::to_html(json));
    FF_TRY(write_file("--report", flags.report, html));
  }
  return {};
}

/// Measures, prints and writes everything. Gives whether all is equal and was measured.
base::Result<bool> measure(const VerifyFlags& flags, const std::string& command_line) {
  FF_ASSIGN(const verify::VerifyOptions options, make_options(flags, command_line));
  FF_TRY(check_outputs(flags));
  base::Result<verify::VerifyReport> report = [&] {
    ProgressLine line;
    const auto show = [&line](const std::string& text) { line.show(text); };
    return flags.engines.given() ? verify::run_engines(options, show) : verify::run(options, show);
  }();
  if (!report.ok()) return report.error();
  fmt::print("{}", verify::to_text(*report));
  FF_TRY(write_outputs(flags, *report));
  if (report->interrupted && flags.engines.given()) {
    return base::fail("interrupted: what had not finished has no figures");
  }
  if (report->interrupted) {
    return base::fail("interrupted: these are {} of the {} repeats", report->options.repeats,
                      options.repeats);
  }
  return report->ok();
}

/// What a run without a model measures besides: the built-in model with experts, split between
/// ranks and between replicas, each with and without EP.
VerifyFlags with_experts(VerifyFlags flags, int devices) {
  constexpr std::string_view kName = "tiny-moe";
  flags.model.model = kName;
  flags.bare = false;
  if (devices == 2 || devices == 4 || devices == 8) {
    flags.schemes = fmt::format("tp{0},tp{0}ep{0},dp{0},dp{0}ep{0}", devices);
  }
  if (!flags.report.empty()) {
    std::filesystem::path other(flags.report);
    other.replace_filename(
        fmt::format("{}-{}{}", other.stem().string(), kName, other.extension().string()));
    flags.report = other.string();
  }
  return flags;
}

int run_verify(const VerifyFlags& flags, const std::string& command_line) {
  if (flags.dry_run) {
    if (const base::Status status = check_outputs(flags); !status.ok()) {
      return fail(status.error());
    }
    const auto options = make_options(flags, command_line);
    if (!options.ok()) return fail(options.error());
    const auto report = verify::plan(*options);
    return report.ok() ? print_plan(*report) : fail(report.error());
  }
  base::Result<bool> ok = measure(flags, command_line);
  if (!ok.ok()) return fail(ok.error());
  if (flags.bare) {
    fmt::print("\n");
    const VerifyFlags experts = with_experts(flags, devices_of(flags));
    const base::Result<bool> second = measure(experts, command_line);
    if (!second.ok()) return fail(second.error());
    ok = *ok && *second;
    fmt::print("\nNow with your own model: fourfold verify HF_FOLDER_OR_GGUF --report out.html\n");
    if (!experts.report.empty()) {
      fmt::print("\nThe report of the model with experts: {} (HTML)\n", experts.report);
    }
  }
  if (!flags.report.empty()) fmt::print("\nThe report with plots: {} (HTML)\n", flags.report);
  return *ok ? 0 : 1;
}

void add_load_flags(CLI::App& command, VerifyFlags& flags) {
  const auto positive = CLI::Range(1, std::numeric_limits<int>::max());
  CLI::Option* input = command.add_option("--input-len", flags.input_len,
                                          "Tokens of each prompt, or that each turn adds");
  input->check(positive)->capture_default_str();
  CLI::Option* output =
      command.add_option("--output-len", flags.output_len, "Tokens generated for each request");
  output->check(positive)->capture_default_str();
  CLI::Option* prefix = command.add_option("--shared-prefix", flags.shared_prefix,
                                           "More tokens with which all prompts begin");
  prefix->check(CLI::Range(0, std::numeric_limits<int>::max()))->capture_default_str();
  CLI::Option* turns =
      command.add_option("--turns", flags.turns,
                         "Requests of one conversation, each with all before it as its prompt");
  turns->check(CLI::Range(1, 1000))->capture_default_str();
  flags.sampling.add_to(command);
  CLI::Option* concurrency = command.add_option("--concurrency", flags.concurrency,
                                                "Requests kept outstanding, one run for each "
                                                "number; auto: doubled until the throughput stops "
                                                "growing (default: 1, 8, and 8 times --devices)");
  concurrency->check(checked_by(parse_concurrency));
  command
      .add_option("--rate", flags.rates,
                  "Requests/s that arrive by themselves, one run for each number, instead of "
                  "--concurrency")
      ->check(checked_by(parse_rates))
      ->excludes(concurrency);
  command
      .add_option(
          "--burstiness", flags.burstiness,
          "Shape of the gamma distribution of the gaps between arrivals; 1: Poisson, below: "
          "bursts, above: more even")
      ->check(number_in(0.01, 1000.0))
      ->capture_default_str();
  CLI::Option* trace = command.add_option("--trace", flags.trace,
                                          "Replay the requests of this file: Mooncake JSONL or "
                                          "Azure CSV; in its own time unless --rate "
                                          "or --concurrency is given");
  trace->check(CLI::ExistingFile);
  for (CLI::Option* fixed : {input, output, prefix, turns}) trace->excludes(fixed);
  command.add_option("--trace-scale", flags.trace_scale, "Multiplies all lengths of the trace")
      ->check(number_in(1e-6, 1e6))
      ->capture_default_str()
      ->needs(trace);
  command
      .add_flag("--trace-skip-too-long", flags.trace_skip_too_long,
                "Leave out requests that do not fit the context, instead of an error")
      ->needs(trace);
  command
      .add_option("--slo", flags.slo,
                  "Service level, for goodput and --find-rate: ttft=500ms,tpot=50ms,e2e=10s,p99 "
                  "(p90 unless said)")
      ->check(checked_by(load::parse_slo));
  command.add_flag("--find-rate", flags.find_rate,
                   "Search the highest rate within --slo for each scheme");
  command
      .add_option(
          "--requests", flags.requests,
          "Requests (conversations) of one run (default: twice the concurrency and at least "
          "4; for a rate 15 seconds' worth and at least 40)")
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--repeats", flags.repeats, "Repeats, schemes interleaved")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command.add_option("--seed", flags.seed, "Seed of prompts, arrivals and sampling")
      ->check(checked_by(parse_seed))
      ->capture_default_str();
}

}  // namespace

Command add_verify(CLI::App& app, const std::string& command_line) {
  auto flags = std::make_shared<VerifyFlags>();
  CLI::App* command = app.add_subcommand(
      "verify",
      "Run every scheme on this hardware under one load: prove that all give the same answers, "
      "measure them, rank them");
  flags->model.add_to(*command);
  flags->engines.add_to(*command);
  command
      ->add_option(
          "--devices", flags->devices,
          "Devices of each scheme (default: the GPUs, or cores / --cpus-per-device; at most 8)")
      ->check(CLI::Range(1, 1024));
  command
      ->add_option("--schemes", flags->schemes,
                   "Only these, for example tp2,pp2,tp2dp2; A,B,C,D are tp8, tp4pp2, tp2pp2dp2, "
                   "dp8 (default: every legal scheme of --devices, and one device)")
      ->check(checked_by(parse_schemes));
  add_load_flags(*command, *flags);
  command->add_option("--json", flags->json, "Write all figures to this file");
  command->add_option("--csv", flags->csv, "Write one row a scheme and load point to this file");
  command->add_option("--report", flags->report,
                      "Write one self-contained HTML file with tables and plots");
  command->add_flag("--dry-run", flags->dry_run,
                    "Print every scheme with its memory per device, and why others are not legal");
  command->footer(std::string(kFooter));
  return [flags, command, command_line] {
    const std::vector<CLI::Option*> options = command->get_options();
    flags->bare = std::all_of(options.begin(), options.end(), [](const CLI::Option* option) {
      return option->count() == 0 || option->check_name("--report");
    });
    if (flags->engines.given()) {
      const base::Status status = flags->engines.check(*command);
      if (!status.ok()) return fail(status.error());
    }
    return run_verify(*flags, command_line);
  };
}

}  // namespace fourfold::cli
