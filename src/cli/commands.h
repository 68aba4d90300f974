#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace fourfold::cli {

/// Adds a subcommand with its flags to `app`. The returned function runs it after parsing and gives
/// the exit code. `command_line` is what the user typed, for reports.
using Command = std::function<int()>;
Command add_generate(CLI::App& app);
Command add_serve(CLI::App& app);
Command add_route(CLI::App& app);
Command add_top(CLI::App& app);
Command add_bench(CLI::App& app, const std::string& command_line);
Command add_verify(CLI::App& app, const std::string& command_line);

}  // namespace fourfold::cli
