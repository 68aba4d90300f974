#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/flags.h"
#include "verify/options.h"

namespace fourfold::cli {

/// Flags for engines that `verify` measures over HTTP.
struct EngineFlags {
  std::string engines;  ///< "vllm", "fourfold,vllm"; "": this program from inside
  std::string command;
  std::string args;
  std::string urls;
  std::string label;
  std::string api_key_file;
  std::string dp_mode = "instances";
  int start_timeout_s = 600;
  int rounds = 1;

  void add_to(CLI::App& command);
  bool given() const { return !engines.empty(); }
  /// Errors: a flag was given that says nothing to a server that is measured over HTTP.
  static base::Status check(const CLI::App& command);
  /// Sets options.engines and options.rounds.
  base::Status set(const ModelFlags& model, verify::VerifyOptions& options) const;
};

}  // namespace fourfold::cli
