#include "serve/keys.h"

#include <algorithm>
#include <fstream>

namespace fourfold::serve {
namespace {

/// Looks at every byte of `shown`, whatever it finds.
bool equal(std::string_view key, std::string_view shown) {
  unsigned difference = key.size() == shown.size() ? 0 : 1;
  for (size_t i = 0; i < shown.size(); ++i) {
    difference |=
        static_cast<unsigned char>(shown[i]) ^ static_cast<unsigned char>(key[i % key.size()]);
  }
  return difference == 0;
}

}  // namespace

base::Result<Keys> Keys::read(const std::string& path) {
  std::ifstream file(path);
  Keys out;
  int line_number = 0;
  for (std::string line; std::getline(file, line);) {
    ++line_number;
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line.starts_with('#')) continue;
    if (!std::all_of(line.begin(), line.end(), [](char c) { return c > ' ' && c < '\x7f'; })) {
      return base::fail("{}:{}: a key has no spaces and only ASCII characters", path, line_number);
    }
    out.keys_.push_back(line);
  }
  if (out.keys_.empty()) return base::fail("{} has no key: expected one a line", path);
  return out;
}

bool Keys::accept(std::string_view authorization) const {
  constexpr std::string_view kScheme = "bearer ";
  const auto lower = [](char a, char b) { return (a | 0x20) == (b | 0x20); };
  std::string_view shown;
  if (authorization.size() >= kScheme.size() &&
      std::equal(kScheme.begin(), kScheme.end(), authorization.begin(), lower)) {
    shown = authorization.substr(kScheme.size());
  }
  bool found = !needed();
  for (const std::string& key : keys_) found = equal(key, shown) || found;
  return found;
}

}  // namespace fourfold::serve
