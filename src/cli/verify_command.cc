#include <cstdio>
#include <fstream>
#include <limits>
#include <memory>
#include <string_view>
#include <thread>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress_line.h"
#include "model/source.h"
#include "verify/report.h"
#include "verify/run.h"

namespace fourfold::cli {
namespace {

constexpr std::string_view kFooter = R"(
What it does: first every scheme answers eight requests, half greedy and half sampled, and its tokens,
logits and the residual after every layer are compared bit for bit with one device's. Then each scheme
runs the load --repeats times, in turn; the prefix cache is empty at the start of each run.

What it prints: TTFT = first token - request sent. TPOT = (last - first token) / (tokens - 1). ITL = gap
between consecutive tokens. All as `vllm bench serve` defines them; +- is the 95 % interval of the mean
over the repeats; a percentile is shown where enough requests stand behind it. busy = share of the time
that a device's operators ran. tp, pp comm = share of the time inside that axis' communication, waiting
included. Schemes whose paired 95 % interval
to the best one contains zero are named beside it.

Exit code: 0 all equal and measured, 1 something failed or differed, 2 a flag that makes no sense.

Examples:
  fourfold verify tiny --devices 8 --schemes A,B,C,D
  fourfold verify HF_FOLDER --devices 2 --input-len 128 --output-len 64 --concurrency 1,8 --json out.json
  fourfold verify llama-1b --load-format dummy --schemes tp2,pp2,dp2
  fourfold verify llama-3.1-70b --devices 8 --dry-run)";

struct VerifyFlags {
  ModelFlags model;
  int devices = 0;
  std::string schemes;
  int input_len = 64;
  int output_len = 32;
  std::string concurrency = "1,8";
  int requests = 0;
  int repeats = 3;
  uint64_t seed = 0;
  std::string json;
  bool dry_run = false;
  bool bare = false;  ///< no arguments at all
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
                                                           const mesh::ModelDivisors& model) {
  std::vector<mesh::ParallelConfig> out;
  for (const mesh::ParallelConfig& scheme : mesh::schemes(devices, model)) {
    if (flags.dry_run || mesh::Mesh::create(scheme, model).ok()) out.push_back(scheme);
  }
  if (out.empty()) {
    return base::fail("{} has no legal scheme for {} devices; --dry-run says why",
                      flags.model.model, devices);
  }
  return out;
}

base::Result<verify::VerifyOptions> make_options(const VerifyFlags& flags,
                                                 const std::string& command_line) {
  verify::VerifyOptions options;
  FF_ASSIGN(options.cluster, flags.model.cluster_config());
  if (flags.dry_run) options.cluster.dummy_weights = true;
  options.input_len = flags.input_len;
  options.output_len = flags.output_len;
  FF_ASSIGN(options.concurrencies, parse_int_list(flags.concurrency));
  options.requests = flags.requests;
  options.repeats = flags.repeats;
  options.seed = flags.seed;
  options.command = command_line;

  FF_ASSIGN(const model::ModelSource source,
            model::open_model(flags.model.model, options.cluster.dummy_weights, 0));
  const mesh::ModelDivisors divisors = source.spec.divisors();
  // Without a word from the user it should be over in a minute, on a large machine, too.
  constexpr int kMostDevices = 8;
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  options.devices = flags.devices > 0
                        ? flags.devices
                        : std::clamp(cores / flags.model.cpus_per_device, 1, kMostDevices);
  const mesh::ParallelConfig one_device;
  if (!flags.schemes.empty()) {
    FF_ASSIGN(options.schemes, parse_schemes(flags.schemes));
    for (const mesh::ParallelConfig& scheme : options.schemes) {
      const auto mesh = mesh::create_or_suggest(scheme, divisors);
      if (!mesh.ok() && !flags.dry_run) return mesh.error();
      if (flags.devices > 0 && scheme.devices() != flags.devices) {
        return base::fail("{} uses {} devices, --devices says {}", mesh::scheme_name(scheme),
                          scheme.devices(), flags.devices);
      }
    }
  } else {
    FF_ASSIGN(options.schemes, schemes_of(flags, options.devices, divisors));
    if (!flags.dry_run && options.devices > 1) {
      options.schemes.insert(options.schemes.begin(), one_device);
    }
  }
  options.answer_only_schemes = {one_device};
  if (flags.bare) {
    for (const char* named : {"A", "B", "C", "D"}) {
      options.answer_only_schemes.push_back(mesh::parse_scheme(named).value());
    }
  }
  if (flags.dry_run) options.answer_only_schemes.clear();
  return options;
}

int print_plan(const verify::VerifyReport& report) {
  constexpr double kMiB = 1024.0 * 1024.0;
  fmt::print("{} ({}, {:.1f} M parameters) on backend {}; memory of the fullest device in MiB\n\n",
             report.options.cluster.model, report.model_family,
             static_cast<double>(report.parameters) * 1e-6, report.backend);
  fmt::print("  {:<12}{:>8}{:>12}{:>12}{:>14}{:>12}\n", "scheme", "devices", "weights", "KV cache",
             "activations", "total");
  for (const verify::SchemeResult& r : report.schemes) {
    if (!r.legal) continue;
    fmt::print("  {:<12}{:>8}{:>12.1f}{:>12.1f}{:>14.1f}{:>12.1f}\n", mesh::scheme_name(r.scheme),
               r.scheme.devices(), static_cast<double>(r.weight_bytes) / kMiB,
               static_cast<double>(r.kv_bytes) / kMiB,
               static_cast<double>(r.activation_bytes) / kMiB,
               static_cast<double>(r.weight_bytes + r.kv_bytes + r.activation_bytes) / kMiB);
  }
  for (const verify::SchemeResult& r : report.schemes) {
    if (!r.legal) fmt::print("\n  {:<12}{}", mesh::scheme_name(r.scheme), r.reason);
  }
  int most_devices = 0;
  for (const verify::SchemeResult& r : report.schemes) {
    most_devices = std::max(most_devices, r.scheme.devices());
  }
  fmt::print("\n{}", verify::devices_note(report, most_devices));
  return 0;
}

base::Status write_json(const std::string& path, const verify::VerifyReport& report) {
  std::ofstream file(path);
  file << verify::to_json(report).dump(2, ' ', false,
                                       nlohmann::ordered_json::error_handler_t::replace)
       << "\n";
  file.close();
  if (!file) return base::fail("{} cannot be written", path);
  return {};
}

/// A scheme that fails costs minutes; a report that cannot be written should cost seconds.
base::Status check_writable(const std::string& path) {
  if (path.empty() || std::ofstream(path, std::ios::app)) return {};
  return base::fail("--json {}: cannot be written; does its folder exist?", path);
}

int run_verify(const VerifyFlags& flags, const std::string& command_line) {
  auto options = make_options(flags, command_line);
  if (!options.ok()) return fail(options.error());
  if (flags.dry_run) {
    const auto report = verify::plan(*options);
    return report.ok() ? print_plan(*report) : fail(report.error());
  }
  if (const base::Status status = check_writable(flags.json); !status.ok()) {
    return fail(status.error());
  }
  base::Result<verify::VerifyReport> report = [&] {
    ProgressLine line;
    return verify::run(*options, [&line](const std::string& text) { line.show(text); });
  }();
  if (!report.ok()) return fail(report.error());
  fmt::print("{}", verify::to_text(*report));
  if (!flags.json.empty()) {
    if (const base::Status status = write_json(flags.json, *report); !status.ok()) {
      return fail(status.error());
    }
    fmt::print("\nAll figures: {}\n", flags.json);
  }
  if (flags.bare) {
    fmt::print(
        "\nNow with your own model: fourfold verify HF_FOLDER_OR_GGUF --devices {} "
        "--concurrency 1,8 --json out.json\n",
        options->devices);
  }
  return report->ok() ? 0 : 1;
}

}  // namespace

Command add_verify(CLI::App& app, const std::string& command_line) {
  auto flags = std::make_shared<VerifyFlags>();
  CLI::App* command = app.add_subcommand(
      "verify",
      "Run every scheme on this hardware under one load: prove that all give the same answers, "
      "measure them, rank them");
  flags->model.max_num_batched_tokens = 512;
  flags->model.add_to(*command);
  command
      ->add_option("--devices", flags->devices,
                   "Devices of each scheme (default: cores / --cpus-per-device, at most 8)")
      ->check(CLI::Range(1, 1024));
  command
      ->add_option("--schemes", flags->schemes,
                   "Only these, for example tp2,pp2,tp2dp2; A,B,C,D are tp8, tp4pp2, tp2pp2dp2, "
                   "dp8 (default: every legal scheme of --devices, and one device)")
      ->check(checked_by(parse_schemes));
  command->add_option("--input-len", flags->input_len, "Tokens of each prompt")
      ->check(CLI::Range(1, std::numeric_limits<int>::max()))
      ->capture_default_str();
  command->add_option("--output-len", flags->output_len, "Tokens generated for each request")
      ->check(CLI::Range(1, std::numeric_limits<int>::max()))
      ->capture_default_str();
  command
      ->add_option("--concurrency", flags->concurrency,
                   "Requests kept outstanding, one run for each number")
      ->check(checked_by(parse_int_list))
      ->capture_default_str();
  command
      ->add_option("--requests", flags->requests,
                   "Requests of one run (default: twice the concurrency, at least 4)")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--repeats", flags->repeats, "Repeats, schemes interleaved")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "Seed of prompts and sampling")->capture_default_str();
  command->add_option("--json", flags->json, "Write all figures to this file");
  command->add_flag("--dry-run", flags->dry_run,
                    "Print every scheme with its memory per device, and why others are not legal");
  command->footer(std::string(kFooter));
  return [flags, command, command_line] {
    flags->bare = command->count_all() == 0 || command_line == "fourfold verify";
    return run_verify(*flags, command_line);
  };
}

}  // namespace fourfold::cli
