#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fourfold::files {

/// What a JSON text may cost at most.
struct JsonLimits {
  int64_t max_bytes = int64_t{64} << 20;
  /// The largest vocabularies have two million, which take half a second.
  int64_t max_values = 2'500'000;
  int max_depth = 64;
};

/// Parses JSON (RFC 8259: UTF-8, no comments). `what` names the text in messages. Errors: a syntax
/// error, with line and column; a key that stands twice in one object; a limit exceeded.
base::Result<nlohmann::json> parse_json(std::string_view text, std::string_view what,
                                        const JsonLimits& limits = {});
/// The same for a file, named by its path.
base::Result<nlohmann::json> parse_json_file(const std::filesystem::path& path,
                                             const JsonLimits& limits = {});

/// object[key] as a bool, int64_t, double (an integer will do) or std::string. Errors say what was
/// expected and found: `expected an integer for "hidden_size" in config.json, found "abc"`.
template <typename T>
base::Result<T> json_get(const nlohmann::json& object, std::string_view key, std::string_view what);
/// The same for a size: an integer of at least 1.
base::Result<int64_t> json_get_positive(const nlohmann::json& object, std::string_view key,
                                        std::string_view what);
/// object[key], or `fallback` where the key is absent or null.
template <typename T>
base::Result<T> json_get_or(const nlohmann::json& object, std::string_view key, T fallback,
                            std::string_view what) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (found == object.end() || found->is_null()) return fallback;
  return json_get<T>(object, key, what);
}

/// `WHAT, line 3, column 7: ...` for a parser's error after reading `position` bytes of `text`.
base::Error json_syntax_error(std::string_view text, size_t position,
                              const nlohmann::json::exception& error, std::string_view what);

}  // namespace fourfold::files
