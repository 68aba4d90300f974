#include "text/pattern.h"

namespace fourfold::text {

base::Result<Regex> parse_pattern(const JsonNode& json) {
  const bool is_regex = json.has("Regex");
  FF_ASSIGN(const std::string pattern, json.string_at(is_regex ? "Regex" : "String"));
  base::Result<Regex> regex = is_regex ? Regex::compile(pattern) : Regex::literal(pattern);
  if (!regex.ok()) return base::fail("{}: {}", json.path(), regex.error().message);
  return regex;
}

}  // namespace fourfold::text
