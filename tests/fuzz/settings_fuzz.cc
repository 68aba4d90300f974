#include "base/check.h"
#include "cli/settings_file.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  const auto settings = cli::parse_settings(std::string(input), "fuzz.yaml");
  if (!settings.ok()) return;
  size_t bytes = 0;
  for (const cli::FileSetting& setting : *settings) {
    CHECK(!setting.values.empty() && setting.line >= 1, "\"{}\" has {} values", setting.key,
          setting.values.size());
    bytes += setting.key.size();
    for (const std::string& value : setting.values) bytes += value.size();
  }
  // An escape such as \L is longer as UTF-8 than as it is written.
  CHECK(bytes <= 2 * input.size(), "{} bytes of {}", bytes, input.size());
}

}  // namespace fourfold::fuzz
