#include "cli/engine_flags.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <string_view>

#include "base/machine.h"

namespace fourfold::cli {
namespace {

/// What the load and the reports are made of, and the engines' own flags: the others are of this
/// program's engine, and other engines have their own.
constexpr std::array<std::string_view, 27> kKnown = {"MODEL",
                                                     "--engine",
                                                     "--engine-command",
                                                     "--engine-args",
                                                     "--url",
                                                     "--label",
                                                     "--api-key-file",
                                                     "--dp-mode",
                                                     "--start-timeout",
                                                     "--rounds",
                                                     "--devices",
                                                     "--schemes",
                                                     "--backend",
                                                     "--cpus-per-device",
                                                     "--input-len",
                                                     "--output-len",
                                                     "--shared-prefix",
                                                     "--concurrency",
                                                     "--rate",
                                                     "--burstiness",
                                                     "--slo",
                                                     "--requests",
                                                     "--repeats",
                                                     "--seed",
                                                     "--json",
                                                     "--csv",
                                                     "--report"};

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(at, begin), text.size());
    out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

base::Result<std::vector<adapter::Engine>> parse_engines(const std::string& text) {
  std::vector<adapter::Engine> out;
  for (const std::string& name : split(text, ',')) {
    FF_ASSIGN(const adapter::Engine engine, adapter::parse_engine(name));
    if (std::find(out.begin(), out.end(), engine) != out.end()) {
      return base::fail("--engine names {} twice", name);
    }
    out.push_back(engine);
  }
  return out;
}

/// The words of `text`, as a shell would part them: blanks part, quotes keep together, a backslash
/// takes the next character as it is. Nothing else has a meaning.
base::Result<std::vector<std::string>> parse_args(const std::string& text) {
  std::vector<std::string> out;
  std::string word;
  bool inside = false;
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quote != 0 && c == quote) {
      quote = 0;
    } else if (c == '\\' && quote != '\'' && i + 1 < text.size()) {
      word += text[++i];
      inside = true;
    } else if (quote != 0) {
      word += c;
    } else if (c == '"' || c == '\'') {
      quote = c;
      inside = true;
    } else if (c == ' ' || c == '\t' || c == '\n') {
      if (inside) out.push_back(std::exchange(word, ""));
      inside = false;
    } else {
      word += c;
      inside = true;
    }
  }
  if (quote != 0) return base::fail("--engine-args {}: the quote {} is not closed", text, quote);
  if (inside) out.push_back(word);
  return out;
}

base::Result<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line) || line.empty()) {
    return base::fail("--api-key-file {}: expected a key in its first line", path);
  }
  return line;
}

}  // namespace

void EngineFlags::add_to(CLI::App& command_line) {
  CLI::Option* engine = command_line.add_option(
      "--engine", engines,
      "Measure these over HTTP instead: fourfold, vllm, sglang (each started for every scheme), "
      "openai (--url), or several with commas");
  engine->check(checked_by(parse_engines));
  command_line
      .add_option("--engine-command", command,
                  "The program to start instead of vllm or sglang: a name or a path")
      ->needs(engine);
  command_line
      .add_option("--engine-args", args,
                  "More arguments for vllm or sglang, quoted as one, for example \"--max-model-len "
                  "4096\"")
      ->check(checked_by(parse_args))
      ->needs(engine);
  CLI::Option* url = command_line.add_option(
      "--url", urls,
      "Of --engine openai: where the server is, or with commas the replicas of one system, "
      "which then stand behind a router of ours");
  url->needs(engine);
  command_line.add_option("--label", label, "What the servers of --url are called in tables")
      ->needs(url);
  command_line
      .add_option("--api-key-file", api_key_file,
                  "The first line of this file is the key for the server of --url")
      ->needs(url);
  command_line
      .add_option("--dp-mode", dp_mode,
                  "Replicas of an engine: instances (one server each, with devices of its own, "
                  "behind a router of ours) or engine (the engine's own flag)")
      ->check(CLI::IsMember({"instances", "engine"}))
      ->needs(engine)
      ->capture_default_str();
  command_line
      .add_option("--start-timeout", start_timeout_s,
                  "Seconds that a server has until it answers its first request")
      ->check(CLI::Range(1, 86400))
      ->needs(engine)
      ->capture_default_str();
  command_line
      .add_option("--rounds", rounds,
                  "Starts of each scheme, over which the repeats are spread: as many as repeats "
                  "interleave all schemes, one is quickest")
      ->check(CLI::Range(1, 1000))
      ->needs(engine)
      ->capture_default_str();
}

base::Status EngineFlags::check(const CLI::App& command) {
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() == 0) continue;
    const bool known = std::any_of(kKnown.begin(), kKnown.end(), [&](std::string_view name) {
      return option->check_name(std::string(name)) || option->get_name() == name;
    });
    if (!known && !option->get_positional()) {
      return base::fail(
          "{} is of the engine inside this program or not known to other servers, and --engine "
          "measures over HTTP: leave it out, or give the engine's own flag in --engine-args",
          option->get_name());
    }
  }
  return {};
}

base::Status EngineFlags::set(const ModelFlags& model, verify::VerifyOptions& options) const {
  FF_ASSIGN(const std::vector<adapter::Engine> chosen, parse_engines(engines));
  const auto has = [&](adapter::Engine engine) {
    return std::find(chosen.begin(), chosen.end(), engine) != chosen.end();
  };
  const bool vllm = has(adapter::Engine::kVllm);
  const bool sglang = has(adapter::Engine::kSglang);
  if (has(adapter::Engine::kOpenai) != !urls.empty()) {
    return base::fail("--engine openai and --url go together: the URLs of servers that run");
  }
  if ((!command.empty() || !args.empty()) && vllm == sglang) {
    return base::fail(
        "--engine-command and --engine-args are for one of vllm and sglang: name exactly one of "
        "them in --engine");
  }
  if (options.sweep) {
    return base::fail("--concurrency auto does not work with --engine: list the numbers");
  }
  adapter::EngineOptions common{
      .model = model.model,
      .dp_mode = dp_mode == "engine" ? adapter::DpMode::kEngine : adapter::DpMode::kInstances,
      .gpus = options.cluster.backend == "cuda",
      .cores = base::usable_cpus(),
      .cpus_per_device = model.cpus_per_device,
      .start_timeout = std::chrono::seconds(start_timeout_s)};
  for (const adapter::Engine engine : chosen) {
    adapter::EngineOptions one = common;
    one.engine = engine;
    if (engine == adapter::Engine::kVllm || engine == adapter::Engine::kSglang) {
      one.command = command;
      FF_ASSIGN(one.args, parse_args(args));
    }
    if (engine == adapter::Engine::kOpenai) {
      one.urls = split(urls, ',');
      one.label = label;
      if (!api_key_file.empty()) {
        FF_ASSIGN(one.api_key, first_line(api_key_file));
      }
    }
    options.engines.push_back(std::move(one));
  }
  options.rounds = rounds;
  return {};
}

}  // namespace fourfold::cli
