#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace fourfold::cli {

/// One line of a settings file: `key: value` or `key: [value, value]`.
struct FileSetting {
  std::string key;
  std::vector<std::string> values;  ///< as text; never empty
  int line = 0;                     ///< of the key, from 1
};

/// Parses a settings file: one YAML mapping of keys to scalars or lists of scalars. Nesting,
/// anchors, aliases, tags, keys without a value and more than one document are errors, so nothing
/// in it can grow beyond its bytes. Errors name `name`, the line, what was expected and found; at
/// most 1 MiB.
base::Result<std::vector<FileSetting>> parse_settings(const std::string& text,
                                                      const std::string& name);

/// Reads and parses the file at `path`.
base::Result<std::vector<FileSetting>> read_settings_file(const std::string& path);

}  // namespace fourfold::cli
