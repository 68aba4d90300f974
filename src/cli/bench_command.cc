#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string_view>

#include "backend/ops.h"
#include "base/machine.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress_line.h"
#include "measure/collectives.h"
#include "measure/compare.h"
#include "measure/offline.h"
#include "measure/operators.h"
#include "measure/served_load.h"

namespace fourfold::cli {
namespace {

constexpr std::string_view kFooter = R"(
Every figure stands beside a ceiling that is measured in the same run, next to it: machines, above
all virtual ones, change their speed from minute to minute, and a share of the ceiling does not.
+- is half the 95 % interval of the mean over the repeats.

Exit code: 0 measured, 1 it failed (compare: something is worse), 2 a flag that makes no sense.)";

constexpr std::string_view kOfflineFooter = R"(
Sends --concurrency requests at once, twice over the same prompts: for one token each (prefill_tok_s,
ttft_ms) and for --output-len (decode_tok_s from when all have their first token, tpot_ms, itl_ms, and
output_tok_s over all). The ceiling is the time that the operators' FLOPs, or the weights and cache
they have to read, would take at the peaks measured before and after each sample.

Examples:
  fourfold bench offline llama-1b --load-format dummy --cpus-per-device 2 --concurrency 1,16
  fourfold bench offline MODEL -tp 2 --numerics invariant --json invariant.json)";

constexpr std::string_view kOpsFooter = R"(
Runs the model's layers on one device with every operator timed: up to 64 rows as a decode step at
position --context, more as one prompt. Operators that only touch activations can beat their ceiling,
which is memory: a cache holds them.

Example:
  fourfold bench ops llama-1b --load-format dummy --rows 1,8,16,512)";

constexpr std::string_view kCommFooter = R"(
Times all_reduce, all_gather, send_recv (half of there and back) and barrier as rank 0 sees them, over
threads, over processes that share memory, over MPI, and where there are as many GPUs from GPU to GPU,
with NCCL alone beside it. --numerics fast sends bf16, invariant f32;
sizes are those of the fp32 array. The ceiling is a copy of the bytes while all ranks copy.

Example:
  fourfold bench comm --devices 4 --sizes 1KiB,8KiB,1MiB)";

constexpr std::string_view kServeFooter = R"(
Sends prompts of random tokens to /v1/completions of any OpenAI-compatible server and reads the streams.
TTFT, TPOT, ITL and the keys of --json are those of vllm bench serve. MODEL is whose vocabulary prompts
are drawn from (folder, GGUF file, built-in name or preset); by default the model that the server names.
A key is read from --api-key-file or the environment variable OPENAI_API_KEY.

Examples:
  fourfold bench serve --url http://127.0.0.1:8000 --input-len 128 --output-len 64 --concurrency 16
  fourfold bench serve llama-3.1-8b --url http://gpu:8000 --request-rate 4 --num-prompts 200 --json r.json)";

constexpr std::string_view kCompareFooter = R"(
gain is how much better B is. A difference is called better or WORSE where it is larger than the root
of the sum of the squares of both 95 % intervals, else it is within the noise. The shares are those of
the ceilings of each run: they tell a slower program from a slower machine.

Example:
  fourfold bench compare before.json after.json --fail-over 5)";

/// What every measuring subcommand has.
struct OutputFlags {
  int repeats = 5;
  std::string json;

  void add_to(CLI::App& app) {
    app.add_option("--repeats", repeats, "Samples of each figure")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    app.add_option("--json", json, "Write all figures to this file (docs/bench-json.md)")
        ->type_name("FILE");
  }
};

/// Who ran where.
measure::Results make_results(const char* kind, const std::string& command_line) {
  measure::Results out{.kind = kind,
                       .version = std::string(base::version()),
                       .commit = std::string(base::commit()),
                       .command = command_line,
                       .date = base::utc_date(),
                       .cpu = base::cpu_name(),
                       .cores = std::ssize(base::usable_cpus())};
  return out;
}

base::Status write_results(const measure::Results& results, const std::string& path) {
  fmt::print("{}", measure::to_text(results));
  if (path.empty()) return {};
  FF_TRY(write_file("--json", path,
                    measure::to_json(results).dump(
                        2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
                        "\n"));
  fmt::print("\nAll figures: {}\n", path);
  return {};
}

/// Measures with a progress line, fills in the figures, prints and writes them.
template <typename Measure>
base::Status finish(measure::Results results, const OutputFlags& output, const Measure& measure) {
  FF_TRY(check_writable("--json", output.json));
  {
    ProgressLine line;
    FF_ASSIGN(results.figures, measure([&line](const std::string& text) { line.show(text); }));
  }
  return write_results(results, output.json);
}

base::Result<std::string> name_of_ops(const ModelFlags& flags) {
  FF_ASSIGN(const auto ops,
            backend::make_ops(backend::chosen_backend(flags.backend, flags.isa), flags.isa));
  return std::string(ops->name()) + (ops->gpu().empty() ? "" : " on " + ops->gpu());
}

Command add_offline(CLI::App& bench, const std::string& command_line) {
  struct Flags {
    ModelFlags model;
    ParallelFlags parallel;
    OutputFlags output;
    measure::OfflineOptions options;
    std::string concurrency = "1";
    SamplingFlags sampling;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand(
      "offline",
      "One scheme under a fixed load: prefill, decode and latencies beside their "
      "ceilings");
  flags->model.add_to(*command);
  flags->parallel.add_to(*command);
  constexpr int kMost = std::numeric_limits<int>::max() / 2;
  command->add_option("--input-len", flags->options.input_len, "Tokens of each prompt")
      ->check(CLI::Range(1, kMost))
      ->capture_default_str();
  command->add_option("--output-len", flags->options.output_len, "Tokens of each output")
      ->check(CLI::Range(1, kMost))
      ->capture_default_str();
  command
      ->add_option("--concurrency", flags->concurrency,
                   "Requests sent at once, one run for each number")
      ->check(checked_by(parse_int_list))
      ->capture_default_str();
  flags->sampling.add_to(*command);
  command->add_option("--seed", flags->options.seed, "Seed of the prompts and of sampling")
      ->check(checked_by(parse_seed))
      ->capture_default_str();
  flags->output.add_to(*command);
  command->footer(std::string(kOfflineFooter));
  return [flags, command_line] {
    const auto status = [&]() -> base::Status {
      measure::OfflineOptions options = flags->options;
      FF_ASSIGN(options.cluster, flags->model.cluster_config());
      FF_TRY(flags->parallel.set_scheme(options.cluster));
      options.numerics = flags->model.numerics_of_steps();
      options.repeats = flags->output.repeats;
      options.sampling = flags->sampling.params();
      FF_ASSIGN(options.concurrencies, parse_int_list(flags->concurrency));
      measure::Results results = make_results("offline", command_line);
      FF_ASSIGN(results.isa, name_of_ops(flags->model));
      results.model = flags->model.model;
      results.scheme = mesh::scheme_name(options.cluster.scheme);
      results.numerics = flags->model.numerics;
      return finish(std::move(results), flags->output, [&](const measure::Progress& progress) {
        return measure::measure_offline(options, progress);
      });
    }();
    return status.ok() ? 0 : fail(status.error());
  };
}

Command add_ops(CLI::App& bench, const std::string& command_line) {
  struct Flags {
    ModelFlags model;
    OutputFlags output;
    std::string rows = "1,8,16,512";
    int context = 512;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      bench.add_subcommand("ops", "Every operator of a model at work on one device");
  flags->model.add_to(*command);
  command->add_option("--rows", flags->rows, "Rows of a step, one run for each number")
      ->check(checked_by(parse_int_list))
      ->capture_default_str();
  command->add_option("--context", flags->context, "Position of the rows of a decode step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  flags->output.add_to(*command);
  command->footer(std::string(kOpsFooter));
  return [flags, command_line] {
    const auto status = [&]() -> base::Status {
      measure::OperatorOptions options{.numerics = flags->model.numerics_of_steps(),
                                       .context = flags->context,
                                       .repeats = flags->output.repeats};
      FF_ASSIGN(options.cluster, flags->model.cluster_config());
      FF_ASSIGN(options.rows, parse_int_list(flags->rows));
      measure::Results results = make_results("ops", command_line);
      FF_ASSIGN(results.isa, name_of_ops(flags->model));
      results.model = flags->model.model;
      results.scheme = fmt::format("{} threads", flags->model.cpus_per_device);
      results.numerics = flags->model.numerics;
      return finish(std::move(results), flags->output, [&](const measure::Progress& progress) {
        return measure::measure_operators(options, progress);
      });
    }();
    return status.ok() ? 0 : fail(status.error());
  };
}

base::Result<std::vector<int64_t>> parse_sizes(const std::string& text) {
  constexpr int64_t kMost = int64_t{64} << 20;
  std::vector<int64_t> out;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    FF_ASSIGN(const int64_t bytes, parse_bytes(text.substr(begin, end - begin)));
    if (bytes % 4 != 0 || bytes > kMost) {
      return base::fail("\"{}\": expected multiples of 4 bytes up to 64MiB", text);
    }
    out.push_back(bytes);
    begin = end + 1;
  }
  return out;
}

Command add_comm(CLI::App& bench, const std::string& command_line) {
  struct Flags {
    OutputFlags output;
    int devices = 2;
    std::string sizes = "1KiB,8KiB,64KiB,1MiB,4MiB";
    std::string numerics = "fast";
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand(
      "comm", "The collectives between the ranks of this machine, over each way there is");
  command->add_option("--devices", flags->devices, "Ranks")
      ->check(CLI::IsMember({2, 4, 8}))
      ->capture_default_str();
  command->add_option("--sizes", flags->sizes, "Bytes of one rank's array")
      ->check(checked_by(parse_sizes))
      ->capture_default_str();
  command->add_option("--numerics", flags->numerics, "What travels: fast: bf16; invariant: f32")
      ->check(CLI::IsMember({"fast", "invariant"}))
      ->capture_default_str();
  flags->output.add_to(*command);
  command->footer(std::string(kCommFooter));
  return [flags, command_line] {
    const auto status = [&]() -> base::Status {
      measure::CollectiveOptions options{
          .ranks = flags->devices,
          .repeats = flags->output.repeats,
          .wire = flags->numerics == "fast" ? comm::Wire::kBF16 : comm::Wire::kF32};
      FF_ASSIGN(options.sizes, parse_sizes(flags->sizes));
      measure::Results results = make_results("comm", command_line);
      results.isa = "cpu";
      results.scheme = fmt::format("{} ranks", flags->devices);
      results.numerics = flags->numerics;
      return finish(std::move(results), flags->output, [&](const measure::Progress& progress) {
        return measure::measure_communication(options, progress);
      });
    }();
    return status.ok() ? 0 : fail(status.error());
  };
}

Command add_serve_load(CLI::App& bench) {
  struct Flags {
    std::string model;
    std::string url = "http://127.0.0.1:8000";
    std::string key_file;
    std::string json;
    measure::ServedLoadOptions options;
  };
  auto flags = std::make_shared<Flags>();
  measure::ServedLoadOptions& options = flags->options;
  CLI::App* command =
      bench.add_subcommand("serve", "A load for an OpenAI-compatible server that is there already");
  command->add_option("MODEL", flags->model, "Whose vocabulary prompts are drawn from");
  command->add_option("--url", flags->url, "Where the server is")
      ->type_name("URL")
      ->check(checked_by(http::Url::parse))
      ->capture_default_str();
  command->add_option("--served-model-name", options.model,
                      "What the server calls the model (default: the first that it lists)");
  command->add_option("--api-key-file", flags->key_file, "A file whose first line is the key")
      ->type_name("FILE")
      ->check(CLI::ExistingFile);
  constexpr int kMost = std::numeric_limits<int>::max() / 2;
  command->add_option("--input-len", options.input_len, "Tokens of each prompt")
      ->check(CLI::Range(1, kMost))
      ->capture_default_str();
  command->add_option("--output-len", options.output_len, "Tokens of each output")
      ->check(CLI::Range(1, kMost))
      ->capture_default_str();
  command->add_option("--num-prompts", options.requests, "Requests")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  CLI::Option* concurrency =
      command
          ->add_option("--concurrency", options.concurrency,
                       "Requests outstanding at most, sent as soon as there is room (default: all "
                       "are sent when they arrive)")
          ->check(CLI::Range(1, 65536));
  command
      ->add_option("--request-rate", options.rate,
                   "Requests/s that arrive, on average (default: all at once)")
      ->check(number_in(1e-3, 1e6))
      ->excludes(concurrency);
  command
      ->add_option(
          "--burstiness", options.burstiness,
          "Shape of the gamma distribution of the gaps: 1 is Poisson, less comes in bursts")
      ->check(number_in(1e-3, 1e3))
      ->capture_default_str();
  command->add_option("--seed", options.seed, "Seed of prompts and arrivals")
      ->check(checked_by(parse_seed))
      ->capture_default_str();
  command->add_option("--json", flags->json, "Write the result with vLLM's keys to this file")
      ->type_name("FILE");
  command->footer(std::string(kServeFooter));
  return [flags] {
    const auto status = [&]() -> base::Status {
      measure::ServedLoadOptions asked = flags->options;
      FF_TRY(check_writable("--json", flags->json));
      FF_ASSIGN(asked.url, http::Url::parse(flags->url));
      FF_ASSIGN(asked.api_key, read_api_key(flags->key_file));
      std::optional<measure::ServedLoad> run;
      {
        ProgressLine line;
        FF_ASSIGN(run,
                  measure::measure_served(asked, flags->model,
                                          [&line](const std::string& text) { line.show(text); }));
      }
      fmt::print("{}", measure::to_text(asked, *run));
      if (!flags->json.empty()) {
        FF_TRY(write_file(
            "--json", flags->json,
            measure::vllm_result(asked, *run, base::utc_date())
                    .dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
                "\n"));
        fmt::print("\nAll figures: {}\n", flags->json);
      }
      if (run->metrics.ttft_ms.empty()) return base::fail("no request was completed");
      return {};
    }();
    return status.ok() ? 0 : fail(status.error());
  };
}

Command add_compare(CLI::App& bench) {
  struct Flags {
    std::string before;
    std::string after;
    double fail_over = -1;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand("compare", "Two files of bench --json side by side");
  command->add_option("before", flags->before, "The results to compare with")->required();
  command->add_option("after", flags->after, "The results in question")->required();
  command
      ->add_option("--fail-over", flags->fail_over,
                   "Exit with 1 where a figure is worse by more than so many per cent, beyond the "
                   "noise")
      ->check(number_in(0.0, 100.0))
      ->type_name("PERCENT");
  command->footer(std::string(kCompareFooter));
  return [flags] {
    const auto worse = [&]() -> base::Result<size_t> {
      FF_ASSIGN(const measure::Results before, measure::read_results(flags->before));
      FF_ASSIGN(const measure::Results after, measure::read_results(flags->after));
      FF_ASSIGN(const measure::ComparisonTable table, measure::compare(before, after));
      fmt::print("{}", measure::to_text(table));
      return flags->fail_over < 0 ? 0 : table.worse_than(flags->fail_over).size();
    }();
    if (!worse.ok()) return fail(worse.error());
    return *worse == 0 ? 0 : 1;
  };
}

}  // namespace

Command add_bench(CLI::App& app, const std::string& command_line) {
  CLI::App* bench = app.add_subcommand(
      "bench", "Measure one thing at a time, every figure beside its ceiling on this machine");
  bench->require_subcommand(1);
  bench->footer(std::string(kFooter));
  auto commands = std::make_shared<std::map<std::string, Command>>();
  commands->emplace("offline", add_offline(*bench, command_line));
  commands->emplace("ops", add_ops(*bench, command_line));
  commands->emplace("comm", add_comm(*bench, command_line));
  commands->emplace("serve", add_serve_load(*bench));
  commands->emplace("compare", add_compare(*bench));
  return [bench, commands] { return commands->at(bench->get_subcommands().front()->get_name())(); };
}

}  // namespace fourfold::cli
