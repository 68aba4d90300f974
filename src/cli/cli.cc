#include "cli/cli.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/help_format.h"
#include "cli/settings.h"
#include "measure/collectives.h"
#include "runtime/launch/guard.h"
#include "runtime/launch/interrupt.h"
#include "runtime/launch/worker_main.h"

namespace fourfold::cli {
namespace {

constexpr std::string_view kFooter = R"(
Examples:
  fourfold verify                                    the built-in model on this machine
  fourfold verify MODEL --devices 2 --concurrency 1,8 --json out.json
  fourfold verify llama-3.1-8b --devices 8 --dry-run every scheme with its memory, nothing is loaded
  fourfold generate tiny "In the beginning" -n 64
  fourfold generate MODEL "Hello" -tp 2 -pp 2        split over four devices
  fourfold serve MODEL -tp 2 -dp 2                   OpenAI's API at http://127.0.0.1:8000
  fourfold route --replica http://a:8000 --replica http://b:8000
  fourfold top http://127.0.0.1:8000                 what a server is doing right now
  fourfold bench offline MODEL --json now.json       every figure beside its ceiling
  fourfold help verify                               flags and examples of one command

A device is a GPU or a fixed set of cores (--cpus-per-device, default 1). Schemes are written
tp4pp2, tp2pp2dp2, ...; -tp, -pp and -dp are the flags that vLLM users know.

Every flag can also come from the environment (--input-len: FOURFOLD_INPUT_LEN) or from a YAML file
(--config FILE, a line "input-len: 128"). The command line is stronger than the environment, and the
environment is stronger than the file; --print-config shows what holds and why. The variable
FOURFOLD_FAULT breaks a rank on purpose (docs/faults.md).

Exit code: 0 done, 1 it failed or something differed, 2 the command line makes no sense.)";

/// A command and what runs it.
using Commands = std::vector<std::pair<const CLI::App*, Command>>;

/// The whole flag table. `command_line` is what reports say was run.
Commands add_commands(CLI::App& app, const std::string& command_line) {
  app.name("fourfold");
  app.formatter(std::make_shared<HelpFormat>());  // before the commands, which take it over
  app.footer(std::string(kFooter));
  app.set_version_flag("--version",
                       fmt::format("fourfold {} ({})", base::version(), base::commit()));
  app.require_subcommand(1);
  Commands out;
  const auto add = [&](const char* name, Command command) {
    out.emplace_back(app.get_subcommand(name), std::move(command));
  };
  add("generate", add_generate(app));
  add("serve", add_serve(app));
  add("route", add_route(app));
  add("top", add_top(app));
  add("verify", add_verify(app, command_line));
  add("bench", add_bench(app, command_line));
  add_settings_flags(app);
  return out;
}

void suggest_flags(const CLI::App& command, const std::vector<std::string>& args) {
  for (const std::string& arg : args) {
    const std::string flag = arg.substr(0, arg.find('='));
    if (!flag.starts_with("-") || command.get_option_no_throw(flag) != nullptr) continue;
    const std::string nearest = nearest_flag(command, flag);
    if (!nearest.empty()) fmt::print(stderr, "  {}: did you mean {}?\n", flag, nearest);
  }
}

/// Says that a command is missing or unknown, and which there are.
void command_error(CLI::App& app, const std::vector<std::string>& args) {
  std::vector<std::string> names;
  for (const CLI::App* known : app.get_subcommands(nullptr)) names.push_back(known->get_name());
  const size_t place = depth_of(app);
  fmt::print(stderr, "fourfold: {}; expected {}\n",
             place < args.size() ? fmt::format("there is no command \"{}\"", args[place])
                                 : "a command is missing",
             fmt::join(names, " or "));
}

int usage_error(CLI::App& app, const CLI::ParseError& error, const std::vector<std::string>& args) {
  CLI::App& command = chosen_command(app);
  const size_t place = depth_of(command);
  const bool at_a_flag = place < args.size() && args[place].starts_with("-");
  if (!command.get_subcommands(nullptr).empty() && !at_a_flag) {
    command_error(command, args);
  } else {
    fmt::print(stderr, "fourfold: {}\n", error.what());
  }
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError)) {
    suggest_flags(command, args);
  }
  fmt::print(stderr, "Run {} --help for what there is.\n", full_name(command));
  return 2;
}

/// "help verify" as "verify --help".
std::vector<std::string> without_help_command(std::vector<std::string> args) {
  if (!args.empty() && args.front() == "help") {
    args.erase(args.begin());
    args.emplace_back("--help");
  }
  return args;
}

std::string joined(const std::vector<std::string>& args) {
  std::string out = "fourfold";
  for (const std::string& arg : args) out += " " + arg;
  return out;
}

std::vector<std::string> environment() {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) out.emplace_back(*entry);
  return out;
}

}  // namespace

int run(int argc, char** argv) {
  base::init_log(spdlog::level::warn);
  // Ranks and their guards are started by this program, not by people: no help text names them.
  if (argc > 1 && std::string_view(argv[1]) == "worker") {
    return runtime::worker_main(argc - 1, argv + 1);
  }
  if (argc > 1 && std::string_view(argv[1]) == "guard") {
    return runtime::guard_main(argc - 1, argv + 1);
  }
  if (argc > 1 && std::string_view(argv[1]) == "comm-rank") {
    return measure::comm_rank_main(argc - 1, argv + 1);
  }
  CLI::App table;
  const Commands storage = add_commands(table, "");  // what parsing the table writes to
  const auto arguments = complete_arguments(
      table, without_help_command(normalise(argc, argv)), environment(),
      [](const std::string& warning) { fmt::print(stderr, "fourfold: {}\n", warning); });
  if (!arguments.ok()) {
    fail(arguments.error());
    return 2;
  }

  CLI::App app{
      "fourfold runs large language models over several devices by tensor, pipeline and data "
      "parallelism, and finds out which combination is best for your model, hardware and load."};
  const Commands commands = add_commands(app, joined(arguments->args));
  try {
    parse(app, arguments->args);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return usage_error(app, error, arguments->args);
  }
  const CLI::App& chosen = chosen_command(app);
  if (wants_settings(chosen)) {
    fmt::print("{}", effective_settings(chosen, *arguments));
    return 0;
  }
  const auto command = std::find_if(commands.begin(), commands.end(), [&](const auto& entry) {
    return entry.first == app.get_subcommands().front();
  });
  runtime::install_interrupt_handler();
  try {
    const int code = command->second();
    if (std::fflush(stdout) != 0) return fail(base::fail("the output could not be written"));
    return code;
  } catch (const std::exception& error) {  // a full disk under fmt::print, no memory
    return fail(base::fail("{}", error.what()));
  }
}

}  // namespace fourfold::cli
