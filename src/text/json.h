#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fourfold::text {

using Json = nlohmann::json;

/// A JSON value with the path that leads to it, which every error names, for example
/// "tokenizer.json/model/vocab". Reading never throws. The document must outlive it.
class JsonNode {
 public:
  JsonNode(const Json& value, std::string path) : value_(&value), path_(std::move(path)) {}

  const Json& value() const { return *value_; }
  const std::string& path() const { return path_; }

  /// True if the member is there and not null; false too where this is no object.
  bool has(const char* key) const;
  /// The member, or an error if it is missing or null.
  base::Result<JsonNode> at(const char* key) const;
  /// The elements, or an error if this is no array.
  base::Result<std::vector<JsonNode>> elements() const;

  /// This value, or an error if it is no integer from `min` to `max`.
  base::Result<int64_t> integer(int64_t min, int64_t max) const;

  base::Result<std::string> string_at(const char* key) const;
  base::Result<int64_t> integer_at(const char* key, int64_t min, int64_t max) const;
  /// `otherwise` where the member is missing or null.
  base::Result<bool> boolean_at(const char* key, bool otherwise) const;

 private:
  const Json* value_;
  std::string path_;
};

/// An error if a chain of rewritings, described by `json`, has more steps than any tokenizer needs:
/// each costs time on every text.
base::Status check_step_count(const JsonNode& json, int64_t steps);

}  // namespace fourfold::text
