#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace fourfold::cli {

/// Help text of at most 100 columns: each flag with what it takes and its default, its description
/// wrapped beside it.
class HelpFormat final : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_option_opts(const CLI::Option* option) const override;
  std::string make_subcommand(const CLI::App* command) const override;
};

}  // namespace fourfold::cli
