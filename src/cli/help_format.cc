#include "cli/help_format.h"

#include <fmt/format.h>

#include <sstream>

namespace fourfold::cli {
namespace {

constexpr size_t kIndent = 30;  ///< of descriptions
constexpr size_t kColumns = 100;

/// `text` in lines from column kIndent on; `head` stands before the first one, or above it where it
/// is too long.
std::string beside(const std::string& head, const std::string& text) {
  std::string out;
  std::string line = head;
  if (line.size() + 2 > kIndent) {
    out += line + "\n";
    line.clear();
  }
  line.resize(kIndent, ' ');
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const bool first = line.size() == kIndent;
    if (!first && line.size() + 1 + word.size() > kColumns) {
      out += line + "\n";
      line.assign(kIndent, ' ');
      line += word;
    } else {
      line += (first ? "" : " ") + word;
    }
  }
  return out + line + "\n";
}

}  // namespace

std::string HelpFormat::make_option(const CLI::Option* option, bool is_positional) const {
  return beside("  " + make_option_name(option, is_positional) + make_option_opts(option),
                make_option_desc(option));
}

std::string HelpFormat::make_option_opts(const CLI::Option* option) const {
  if (option->get_type_size() == 0) return "";
  // "INT:INT in [1 - 1024]": the range is for the error that names it.
  const std::string type = option->get_type_name();
  const size_t choices = type.find('{');
  std::string out =
      " " + (choices == std::string::npos ? type.substr(0, type.find(':')) : type.substr(choices));
  if (!option->get_default_str().empty()) out += "=" + option->get_default_str();
  if (option->get_expected_max() > 1) out += " ...";
  return out;
}

std::string HelpFormat::make_subcommand(const CLI::App* command) const {
  return beside("  " + command->get_name(), command->get_description());
}

}  // namespace fourfold::cli
