#include "serve/fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "files/printable.h"

namespace fourfold::serve {

using nlohmann::json;

namespace {

const char* expected_of(FieldType type) {
  switch (type) {
    case FieldType::kBoolean:
      return "true or false";
    case FieldType::kInteger:
      return "an integer";
    case FieldType::kNumber:
      return "a number";
    case FieldType::kString:
      return "a string";
    case FieldType::kStrings:
      return "a string or a list of strings";
    case FieldType::kTokens:
      return "a list of token ids";
    case FieldType::kPrompt:
      return "a string, a list of token ids, or a list of these";
    case FieldType::kMessages:
      return "a list of messages";
    case FieldType::kBiases:
      return "an object of token ids with a number each";
    case FieldType::kStreamOptions:
    case FieldType::kObject:
      return "an object";
    case FieldType::kSchema:
      return "a JSON schema";
    case FieldType::kTools:
      return "a list of functions";
    case FieldType::kToolChoice:
      return "none, auto, required or a function";
    default:
      return "";
  }
}

bool all(const json& list, bool (*holds)(const json&)) {
  return list.is_array() && std::all_of(list.begin(), list.end(), holds);
}

bool is_string(const json& value) { return value.is_string(); }

/// 16.0 is an integer, too, as in JSON Schema.
bool is_integer(const json& value) {
  if (!value.is_number_float()) return value.is_number_integer();
  const auto number = value.get<double>();
  return std::floor(number) == number && std::abs(number) <= 0x1p53;
}

/// A number that an id could be.
bool is_token(const json& value) {
  return value.is_number_integer() && value >= 0 && value <= std::numeric_limits<int32_t>::max();
}

bool is_token_list(const json& value) { return all(value, is_token); }

bool has_type(const json& value, FieldType type) {
  switch (type) {
    case FieldType::kBoolean:
      return value.is_boolean();
    case FieldType::kInteger:
      return is_integer(value);
    case FieldType::kNumber:
      return value.is_number();
    case FieldType::kString:
      return value.is_string();
    case FieldType::kStrings:
      return value.is_string() || all(value, is_string);
    case FieldType::kTokens:
      return is_token_list(value);
    case FieldType::kPrompt:
      return value.is_string() || all(value, is_string) || is_token_list(value) ||
             all(value, is_token_list);
    case FieldType::kMessages:
      return value.is_array();
    case FieldType::kBiases:
      return value.is_object() && std::all_of(value.begin(), value.end(),
                                              [](const json& bias) { return bias.is_number(); });
    case FieldType::kStreamOptions:
    case FieldType::kObject:
      return value.is_object();
    case FieldType::kSchema:
      return value.is_object() || value.is_string() || value.is_boolean();
    case FieldType::kTools:
      return value.is_array();
    case FieldType::kToolChoice:
      return value.is_object() || value.is_string();
    case FieldType::kNote:
    case FieldType::kUnsupported:
      return true;
  }
  return false;
}

/// The range of numbers is what the field holds, of lists how many.
std::optional<ApiError> check_range(const Field& field, const json& value) {
  const auto within = [&](double number) { return number >= field.least && number <= field.most; };
  const auto error = [&](const std::string& found) {
    return field_error(field.name, fmt::format("{} is {}, expected {} to {}", field.name, found,
                                               field.least, field.most));
  };
  switch (field.type) {
    case FieldType::kInteger:
      // A double rounds it to what is still in the range of 64 bits.
      if (value.is_number_unsigned() &&
          value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
        return error(shown(value));
      }
      [[fallthrough]];
    case FieldType::kNumber:
      if (!within(value.get<double>())) return error(shown(value));
      break;
    case FieldType::kStrings:
    case FieldType::kTokens:
      if (value.is_array() && !within(static_cast<double>(value.size()))) {
        return error(fmt::format("a list of {}", value.size()));
      }
      break;
    case FieldType::kBiases:
      for (const json& bias : value) {
        if (!within(bias.get<double>())) return error(shown(bias));
      }
      break;
    default:
      break;
  }
  return std::nullopt;
}

std::optional<ApiError> check_field(const Field& field, const json& value) {
  if (field.type == FieldType::kUnsupported) {
    if (!field.harmless.empty() && value == json::parse(field.harmless)) return std::nullopt;
    ApiError error =
        field_error(field.name, fmt::format("{} is not supported here: leave it out", field.name));
    error.code = "unsupported_parameter";
    return error;
  }
  if (!has_type(value, field.type)) {
    return field_error(field.name, fmt::format("expected {} for {}, found {}",
                                               expected_of(field.type), field.name, shown(value)));
  }
  return check_range(field, value);
}

}  // namespace

std::string shown(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  if (value.is_string()) return '"' + files::printable(value.get_ref<const std::string&>()) + '"';
  return value.dump();
}

ApiError field_error(std::string_view name, std::string message) {
  return {.message = std::move(message), .param = std::string(name), .code = {}};
}

const Field* find_field(Endpoint endpoint, std::string_view name) {
  const std::span<const Field> all = fields();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Field& field) {
    return field.name == name && (field.endpoints & in(endpoint)) != 0;
  });
  return found == all.end() ? nullptr : &*found;
}

std::optional<ApiError> Fields::read(Endpoint endpoint, json body, Fields* out) {
  if (!body.is_object()) {
    return ApiError{
        .message = "expected a JSON object, found " + shown(body), .param = {}, .code = {}};
  }
  out->endpoint_ = endpoint;
  out->unknown_.clear();
  for (const auto& [name, value] : body.items()) {
    const Field* field = find_field(endpoint, name);
    if (field == nullptr) {
      out->unknown_.push_back(name);
    } else if (!value.is_null()) {
      if (auto error = check_field(*field, value)) return error;
    }
  }
  out->body_ = std::move(body);
  for (const Field& field : fields()) {
    if (!field.required || (field.endpoints & in(endpoint)) == 0 || out->find(field.name)) continue;
    ApiError error = field_error(field.name, fmt::format("{} is missing", field.name));
    error.code = "missing_required_parameter";
    return error;
  }
  return std::nullopt;
}

const json* Fields::find(std::string_view name) const {
  const auto found = body_.find(name);
  return found == body_.end() || found->is_null() ? nullptr : &*found;
}

double Fields::number(std::string_view name) const {
  if (const json* value = find(name)) {
    return value->is_boolean() ? (value->get<bool>() ? 1 : 0) : value->get<double>();
  }
  const Field* field = find_field(endpoint_, name);
  CHECK(field != nullptr && !std::isnan(field->fallback), "{} has no default", name);
  return field->fallback;
}

int64_t Fields::integer(std::string_view name) const {
  const json* value = find(name);
  return value == nullptr ? static_cast<int64_t>(number(name)) : value->get<int64_t>();
}

}  // namespace fourfold::serve
