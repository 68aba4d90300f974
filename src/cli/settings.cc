#include "cli/settings.h"

#include <fmt/ranges.h>
#include <yaml-cpp/emitter.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "cli/flags.h"
#include "cli/settings_file.h"

namespace fourfold::cli {
namespace {

constexpr std::string_view kPrefix = "FOURFOLD_";
constexpr const char* kConfig = "--config";
constexpr const char* kPrintConfig = "--print-config";

/// Read by the program or its tests, but no flags.
constexpr std::array<std::string_view, 3> kOtherVariables = {
    "FOURFOLD_CONTROL_SECRET", "FOURFOLD_FAULT", "FOURFOLD_GEMMA_GGUF"};

/// A value for one flag from somewhere else than the command line.
struct Setting {
  std::string name;  ///< the long name without dashes
  std::vector<std::string> values;
  std::string origin;
};

/// Every command below `app`, itself included.
std::vector<CLI::App*> all_commands(CLI::App& app) {
  std::vector<CLI::App*> out = {&app};
  for (CLI::App* child : app.get_subcommands(nullptr)) {
    const std::vector<CLI::App*> below = all_commands(*child);
    out.insert(out.end(), below.begin(), below.end());
  }
  return out;
}

std::string variable_of(const std::string& name) {
  std::string out(kPrefix);
  for (const char c : name) {
    out += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return out;
}

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

/// Another flag that is not set and that this one needs, or that is set and rules this one out:
/// its value holds, but a file with it would be refused.
bool is_idle(const CLI::Option& option) {
  const auto set = [](const CLI::Option* other) { return other->count() > 0; };
  const auto& needs = option.get_needs();
  const auto& excludes = option.get_excludes();
  return !std::all_of(needs.begin(), needs.end(), set) ||
         std::any_of(excludes.begin(), excludes.end(), set);
}

/// Long names of what can be set from outside: --help and --version end the program instead.
std::vector<std::string> settable_names(const CLI::App& command) {
  std::vector<std::string> out;
  for (const CLI::Option* option : command.get_options()) {
    if (option == command.get_help_ptr() || option == command.get_version_ptr()) continue;
    if (option->check_name(kPrintConfig)) continue;
    const std::vector<std::string>& names = option->get_lnames();
    out.insert(out.end(), names.begin(), names.end());
  }
  return out;
}

/// The command that has a flag of this name, or null.
const CLI::App* command_with(CLI::App& root, const std::string& name) {
  for (const CLI::App* command : all_commands(root)) {
    const std::vector<std::string> names = settable_names(*command);
    if (std::find(names.begin(), names.end(), name) != names.end()) return command;
  }
  return nullptr;
}

/// "--name=value" once for each value of a flag that may be repeated; else one, with lists joined
/// by commas as the command line writes them.
std::vector<std::string> as_flags(const CLI::Option& option, const Setting& setting) {
  std::vector<std::string> out;
  if (option.get_items_expected_max() > 1) {
    for (const std::string& value : setting.values) {
      out.push_back("--" + setting.name + "=" + value);
    }
    return out;
  }
  return {fmt::format("--{}={}", setting.name, fmt::join(setting.values, ","))};
}

/// What the flag itself says against the value, or "".
std::string refusal(CLI::Option& option, const Setting& setting) {
  if (is_flag(option)) {
    constexpr std::array<std::string_view, 4> kWords = {"true", "false", "1", "0"};
    const bool known = setting.values.size() == 1 &&
                       std::find(kWords.begin(), kWords.end(), setting.values[0]) != kWords.end();
    return known ? ""
                 : fmt::format("--{}: expected true or false, found {}", setting.name,
                               fmt::join(setting.values, ","));
  }
  option.clear();
  try {
    for (const std::string& flag : as_flags(option, setting)) {
      option.add_result(flag.substr(flag.find('=') + 1));
    }
    option.run_callback();
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "";
}

/// Settings of one source; the same flag twice under two of its names is an error.
class Source {
 public:
  Source(CLI::App& command, const std::set<const CLI::Option*>& taken)
      : command_(command), taken_(taken) {}

  base::Status add(const Setting& setting) {
    CLI::Option* option = command_.get_option_no_throw("--" + setting.name);
    if (const std::string why = refusal(*option, setting); !why.empty()) {
      return base::fail("{}: {}", setting.origin, why);
    }
    const auto [it, fresh] = origins_.emplace(option, setting.origin);
    if (!fresh) {
      return base::fail("{}: --{} is already set by {}", setting.origin, setting.name, it->second);
    }
    // A source before this one has said it, or has said something that rules it out.
    const auto& excluded = option->get_excludes();
    if (taken_.contains(option) || std::any_of(excluded.begin(), excluded.end(), [&](auto* other) {
          return taken_.contains(other);
        })) {
      return {};
    }
    const std::vector<std::string> flags = as_flags(*option, setting);
    flags_.insert(flags_.end(), flags.begin(), flags.end());
    used_.insert(option);
    return {};
  }

  /// Appends what this source decides.
  void apply(Arguments& out, size_t at, std::set<const CLI::Option*>& taken) const {
    out.args.insert(out.args.begin() + static_cast<std::ptrdiff_t>(at), flags_.begin(),
                    flags_.end());
    for (const CLI::Option* option : used_) {
      out.origins[option->get_lnames().front()] = origins_.at(option);
      taken.insert(option);
    }
  }

 private:
  CLI::App& command_;
  const std::set<const CLI::Option*>& taken_;
  std::map<const CLI::Option*, std::string> origins_;
  std::set<const CLI::Option*> used_;
  std::vector<std::string> flags_;
};

using Variables = std::map<std::string, std::string>;

/// The FOURFOLD_ variables that are set to something.
Variables own_variables(const std::vector<std::string>& environment) {
  Variables out;
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    if (!entry.starts_with(kPrefix) || equals == std::string::npos) continue;
    if (equals + 1 < entry.size()) out.emplace(entry.substr(0, equals), entry.substr(equals + 1));
  }
  return out;
}

void warn_of_unknown(CLI::App& app, const Variables& variables,
                     const std::function<void(const std::string&)>& warn) {
  std::vector<std::string> known(kOtherVariables.begin(), kOtherVariables.end());
  for (const CLI::App* command : all_commands(app)) {
    for (const std::string& name : settable_names(*command)) known.push_back(variable_of(name));
  }
  for (const auto& [name, value] : variables) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    const std::string near = nearest(known, name);
    warn(fmt::format("the environment variable {} is no setting of fourfold and is ignored{}", name,
                     near.empty() ? "" : "; did you mean " + near + "?"));
  }
}

base::Status add_variables(CLI::App& command, const Variables& variables, Source& source) {
  for (const std::string& name : settable_names(command)) {
    const auto it = variables.find(variable_of(name));
    if (it == variables.end()) continue;
    FF_TRY(source.add({.name = name, .values = {it->second}, .origin = it->first}));
  }
  return {};
}

std::string unknown_key(CLI::App& root, const CLI::App& command, const std::string& key) {
  std::string out = fmt::format("{} has no flag --{}", full_name(command), key);
  const std::string short_flag = "-" + key;
  const char* const argv[] = {"", short_flag.c_str()};
  const std::string spelled_out = normalise(2, argv).front();
  std::string near = spelled_out != short_flag ? spelled_out : nearest_flag(command, "--" + key);
  if (const CLI::App* other = command_with(root, key)) {
    return out + fmt::format("; it is one of {}", full_name(*other));
  }
  return near.empty() ? out : out + fmt::format("; did you mean {}?", near.substr(2));
}

base::Status add_file(CLI::App& root, CLI::App& command, const std::string& path, Source& source) {
  FF_ASSIGN(const std::vector<FileSetting> settings, read_settings_file(path));
  const std::vector<std::string> names = settable_names(command);
  for (const FileSetting& setting : settings) {
    const std::string origin = fmt::format("{}:{}", path, setting.line);
    if ("--" + setting.key == kConfig) {
      return base::fail("{}: a settings file cannot name another one", origin);
    }
    if (std::find(names.begin(), names.end(), setting.key) == names.end()) {
      return base::fail("{}: {}", origin, unknown_key(root, command, setting.key));
    }
    FF_TRY(source.add({.name = setting.key, .values = setting.values, .origin = origin}));
  }
  return {};
}

/// A scalar as YAML writes it.
std::string yaml_scalar(const std::string& value) {
  YAML::Emitter out;
  out << value;
  return out.c_str();
}

}  // namespace

std::string full_name(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return (parent == nullptr ? "" : full_name(*parent) + " ") + command.get_name();
}

size_t depth_of(const CLI::App& command) {
  return command.get_parent() == nullptr ? 0 : depth_of(*command.get_parent()) + 1;
}

void add_settings_flags(CLI::App& app) {
  for (CLI::App* command : all_commands(app)) {
    if (!command->get_subcommands(nullptr).empty()) continue;
    command->add_option(kConfig)
        ->description(
            "Take what is not on this command line from this YAML file: flag names "
            "without dashes, one a line")
        ->type_name("FILE")
        ->expected(1)
        ->group("Settings");
    command->add_flag(kPrintConfig)
        ->description("Print every flag's value and where it comes from, as such a file, and stop")
        ->group("Settings");
  }
}

void parse(CLI::App& app, std::vector<std::string> args) {
  std::reverse(args.begin(), args.end());  // CLI11 takes them from the back
  app.parse(args);
}

CLI::App& chosen_command(CLI::App& app) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  return chosen.empty() ? app : chosen_command(*chosen.back());
}

base::Result<Arguments> complete_arguments(CLI::App& app, const std::vector<std::string>& args,
                                           const std::vector<std::string>& environment,
                                           const std::function<void(const std::string&)>& warn) {
  Arguments out{.args = args, .origins = {}};
  try {
    parse(app, args);
  } catch (const CLI::RequiredError&) {  // may stand elsewhere
  } catch (const CLI::ParseError&) {
    return out;
  }
  CLI::App& command = chosen_command(app);
  if (!command.get_subcommands(nullptr).empty()) return out;
  const size_t depth = depth_of(command);
  std::set<const CLI::Option*> taken;
  std::string path;
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() > 0) taken.insert(option);
  }
  if (const CLI::Option* config = command.get_option(kConfig); config->count() > 0) {
    path = config->as<std::string>();
  }

  const Variables variables = own_variables(environment);
  warn_of_unknown(app, variables, warn);
  Source from_environment(command, taken);
  FF_TRY(add_variables(command, variables, from_environment));
  const auto configured = variables.find(variable_of("config"));
  if (path.empty() && configured != variables.end()) path = configured->second;
  from_environment.apply(out, depth, taken);
  if (path.empty()) return out;
  Source from_file(command, taken);
  FF_TRY(add_file(app, command, path, from_file));
  from_file.apply(out, depth, taken);
  return out;
}

bool wants_settings(const CLI::App& command) { return command.count(kPrintConfig) > 0; }

std::string effective_settings(const CLI::App& command, const Arguments& arguments) {
  std::string out =
      fmt::format("# {}: give this file to --config to run the same.\n", full_name(command));
  for (const CLI::Option* option : command.get_options()) {
    if (option == command.get_help_ptr() || option->check_name(kConfig) ||
        option->check_name(kPrintConfig)) {
      continue;
    }
    const bool positional = option->get_lnames().empty();
    const std::string name = positional ? option->get_name() : option->get_lnames().front();
    const auto origin = arguments.origins.find(name);
    std::string line;
    if (option->count() == 0 && option->get_default_str().empty()) {
      line = fmt::format("# {}: not set", name);
    } else if (option->count() == 0) {
      line = fmt::format("{}{}: {}  # default", is_idle(*option) ? "# " : "", name,
                         yaml_scalar(option->get_default_str()));
    } else {
      const std::vector<std::string>& values = option->results();
      std::vector<std::string> scalars(values.size());
      std::transform(values.begin(), values.end(), scalars.begin(), yaml_scalar);
      line = fmt::format(fmt::runtime(values.size() > 1 ? "{}: [{}]  # {}" : "{}: {}  # {}"), name,
                         fmt::join(scalars, ", "),
                         origin == arguments.origins.end() ? "command line" : origin->second);
      if (positional) line = "# " + line;
    }
    out += line + "\n";
  }
  return out;
}

}  // namespace fourfold::cli
