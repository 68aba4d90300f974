#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace fourfold::cli {

/// A command line with what the environment and the settings file add to it, written as the flags
/// that would say the same.
struct Arguments {
  std::vector<std::string> args;
  /// Where each added flag comes from, by its first long name: "run.yaml:3",
  /// "FOURFOLD_INPUT_LEN".
  std::map<std::string, std::string> origins;
};

/// Gives every command below `app` the flags --config and --print-config. To be called after all
/// other flags are there: they are the one table that everything here is derived from.
void add_settings_flags(CLI::App& app);

/// What `args` leave open is taken from the variables FOURFOLD_INPUT_LEN (for --input-len, …) of
/// `environment` ("NAME=value" each), and then from the file of --config. `app` is used up.
///
/// Errors name file and line or variable: an unknown key with the nearest flag, a value that the
/// flag refuses, the same flag twice. A command line that makes no sense is given back as it is.
/// `warn` gets a sentence for each FOURFOLD_ variable that nothing reads.
base::Result<Arguments> complete_arguments(CLI::App& app, const std::vector<std::string>& args,
                                           const std::vector<std::string>& environment,
                                           const std::function<void(const std::string&)>& warn);

/// Whether --print-config was given.
bool wants_settings(const CLI::App& command);

/// Every flag of the parsed `command` with its value and where it comes from, as a settings file.
std::string effective_settings(const CLI::App& command, const Arguments& arguments);

/// "fourfold bench offline".
std::string full_name(const CLI::App& command);

/// Words of the command line that name it: 0 for the program, 2 for "bench offline".
size_t depth_of(const CLI::App& command);

/// The command that was chosen: the last subcommand of the parsed `app`, or `app` itself.
CLI::App& chosen_command(CLI::App& app);

/// Parses `args`; throws as CLI::App::parse does.
void parse(CLI::App& app, std::vector<std::string> args);

}  // namespace fourfold::cli
