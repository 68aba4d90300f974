#include "cli/cli.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/flags.h"
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

A device is a fixed set of cores (--cpus-per-device, default 1). Schemes are written tp4pp2,
tp2pp2dp2, ...; -tp, -pp and -dp are the flags that vLLM users know.)";

void suggest_flags(const CLI::App& command, const std::vector<std::string>& args) {
  for (const std::string& arg : args) {
    const std::string flag = arg.substr(0, arg.find('='));
    if (!flag.starts_with("-") || command.get_option_no_throw(flag) != nullptr) continue;
    const std::string nearest = nearest_flag(command, flag);
    if (!nearest.empty()) fmt::print(stderr, "  {}: did you mean {}?\n", flag, nearest);
  }
}

int usage_error(const CLI::App& app, const CLI::ParseError& error,
                const std::vector<std::string>& args) {
  const std::vector<CLI::App*> commands = app.get_subcommands();
  const CLI::App& command = commands.empty() ? app : *commands.back();
  if (commands.empty() && !args.empty() && !args.front().starts_with("-")) {
    fmt::print(stderr, "fourfold: there is no command \"{}\"; expected generate or verify\n",
               args.front());
  } else {
    fmt::print(stderr, "fourfold: {}\n", error.what());
  }
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError)) {
    suggest_flags(command, args);
  }
  fmt::print(stderr, "Run fourfold{} --help for what there is.\n",
             commands.empty() ? "" : " " + command.get_name());
  return 2;
}

std::string command_line(int argc, char** argv) {
  std::string out = "fourfold";
  for (int i = 1; i < argc; ++i) out += std::string(" ") + argv[i];
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
  CLI::App app{
      "fourfold runs large language models over several devices by tensor, pipeline and data "
      "parallelism, and finds out which combination is best for your model, hardware and load.",
      "fourfold"};
  app.footer(std::string(kFooter));
  app.set_version_flag("--version",
                       fmt::format("fourfold {} ({})", base::version(), base::commit()));
  app.require_subcommand(1);
  const Command generate = add_generate(app);
  const Command verify = add_verify(app, command_line(argc, argv));

  std::vector<std::string> args = normalise(argc, argv);
  const std::vector<std::string> given = args;
  std::reverse(args.begin(), args.end());  // CLI11 takes them from the back
  try {
    app.parse(args);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return usage_error(app, error, given);
  }
  runtime::install_interrupt_handler();
  try {
    const int code = app.got_subcommand("generate") ? generate() : verify();
    if (std::fflush(stdout) != 0) return fail(base::fail("the output could not be written"));
    return code;
  } catch (const std::exception& error) {  // a full disk under fmt::print, no memory
    return fail(base::fail("{}", error.what()));
  }
}

}  // namespace fourfold::cli
