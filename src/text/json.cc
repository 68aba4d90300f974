#include "text/json.h"

#include "files/json.h"
#include "files/printable.h"

namespace fourfold::text {

using base::fail;
using base::Result;

bool JsonNode::has(const char* key) const {
  if (!value_->is_object()) return false;
  const auto it = value_->find(key);
  return it != value_->end() && !it->is_null();
}

base::Status check_step_count(const JsonNode& json, int64_t steps) {
  constexpr int64_t kMaxSteps = 32;
  if (steps <= kMaxSteps) return {};
  return fail("{} has {} steps; at most {} are supported", json.path(), steps, kMaxSteps);
}

Result<JsonNode> JsonNode::at(const char* key) const {
  if (!value_->is_object()) {
    return fail("{} is {}, expected an object", path_, value_->type_name());
  }
  if (!has(key)) return fail("{} lacks '{}'", path_, files::printable(key));
  return JsonNode((*value_)[key], fmt::format("{}/{}", path_, files::printable(key)));
}

Result<std::vector<JsonNode>> JsonNode::elements() const {
  if (!value_->is_array()) return fail("{} is {}, expected an array", path_, value_->type_name());
  std::vector<JsonNode> out;
  out.reserve(value_->size());
  for (const Json& element : *value_) {
    out.emplace_back(element, fmt::format("{}/{}", path_, out.size()));
  }
  return out;
}

Result<int64_t> JsonNode::integer(int64_t min, int64_t max) const {
  const bool is_integer =
      value_->is_number_integer() &&
      !(value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t{INT64_MAX});
  if (!is_integer || value_->get<int64_t>() < min || value_->get<int64_t>() > max) {
    return fail("{} is {}, expected an integer from {} to {}", path_,
                value_->is_number() ? value_->dump() : value_->type_name(), min, max);
  }
  return value_->get<int64_t>();
}

Result<std::string> JsonNode::string_at(const char* key) const {
  return files::json_get<std::string>(*value_, key, path_);
}

Result<int64_t> JsonNode::integer_at(const char* key, int64_t min, int64_t max) const {
  FF_ASSIGN(const JsonNode node, at(key));
  return node.integer(min, max);
}

Result<bool> JsonNode::boolean_at(const char* key, bool otherwise) const {
  return files::json_get_or<bool>(*value_, key, otherwise, path_);
}

}  // namespace fourfold::text
