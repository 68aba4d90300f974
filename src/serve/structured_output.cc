#include "serve/structured_output.h"

#include <fmt/format.h>

#include <array>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "serve/request_json.h"

namespace fourfold::serve {

using nlohmann::json;
using nlohmann::ordered_json;

namespace {

using Made = base::Result<Constraints::Pointer>;

constexpr std::array<std::string_view, 5> kForms = {"response_format", "structured_outputs",
                                                    "guided_json", "guided_regex", "guided_choice"};

/// {"type": "text"} asks for nothing.
bool asks(std::string_view name, const json& value) {
  return name != "response_format" || !value.is_object() || value.value("type", json()) != "text";
}

std::optional<ApiError> take(std::string_view name, Made made, Constraints::Pointer* out) {
  if (!made.ok()) return field_error(name, fmt::format("{}: {}", name, made.error().message));
  *out = std::move(made).value();
  return std::nullopt;
}

/// Refuses a member that is not among those known, but for null.
std::optional<ApiError> check_members(const std::string& name, const ordered_json& object,
                                      std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : object.items()) {
    bool is_known = value.is_null();
    for (const std::string_view member : known) is_known = is_known || member == key;
    if (is_known) continue;
    ApiError error = field_error(
        name + "." + key,
        fmt::format("{}.{} is not supported here: leave it out", name, shown(json(key))));
    error.code = "unsupported_parameter";
    return error;
  }
  return std::nullopt;
}

/// An object or boolean, or JSON of one in a string.
std::optional<ApiError> read_schema(const std::string& name, const ordered_json& value,
                                    Constraints& constraints, Constraints::Pointer* out) {
  if (!value.is_string()) return take(name, constraints.json_schema(value), out);
  const auto& text = value.get_ref<const std::string&>();
  ordered_json schema;
  if (auto error = parse_ordered(text, name, &schema)) return error;
  return take(name, constraints.json_schema(schema), out);
}

std::optional<ApiError> read_choices(const std::string& name, const ordered_json& value,
                                     Constraints& constraints, Constraints::Pointer* out) {
  std::vector<std::string> choices;
  const ordered_json list = value.is_array() ? value : ordered_json::array({value});
  for (const ordered_json& choice : list) {
    if (!choice.is_string()) return field_error(name, name + ": expected a list of strings");
    choices.push_back(choice);
  }
  return take(name, constraints.choice(choices), out);
}

std::optional<ApiError> read_response_format(const ordered_json& value, Constraints& constraints,
                                             Constraints::Pointer* out) {
  const std::string name = "response_format";
  if (auto error = check_members(name, value, {"type", "json_schema"})) return error;
  const ordered_json type = value.value("type", ordered_json());
  if (type == "json_object") return take(name, constraints.json_object(), out);
  if (type != "json_schema") {
    return field_error(
        name, fmt::format("response_format.type is {}, expected text, json_object or json_schema",
                          shown(json(type))));
  }
  const ordered_json inner = value.value("json_schema", ordered_json());
  if (!inner.is_object() || !inner.contains("schema")) {
    return field_error(name, "response_format.json_schema needs a schema");
  }
  const std::string path = name + ".json_schema";
  if (auto error = check_members(path, inner, {"name", "description", "strict", "schema"})) {
    return error;
  }
  return take(name, constraints.json_schema(inner["schema"]), out);
}

std::optional<ApiError> read_structured_outputs(const ordered_json& value, Constraints& constraints,
                                                Constraints::Pointer* out) {
  const std::string name = "structured_outputs";
  const auto known = {std::string_view("json"), std::string_view("regex"),
                      std::string_view("choice"), std::string_view("json_object")};
  if (auto error = check_members(name, value, known)) return error;
  int given = 0;
  for (const std::string_view key : known) {
    given += value.value(std::string(key), ordered_json()).is_null() ? 0 : 1;
  }
  if (given != 1) {
    return field_error(name, fmt::format("{} forms in structured_outputs, expected one of json, "
                                         "regex, choice, json_object",
                                         given));
  }
  const auto find = [&](const char* key) { return value.value(key, ordered_json()); };
  if (!find("json").is_null()) return read_schema(name, find("json"), constraints, out);
  if (!find("choice").is_null()) return read_choices(name, find("choice"), constraints, out);
  if (find("regex").is_string()) return take(name, constraints.regex(find("regex")), out);
  if (find("json_object") == true) return take(name, constraints.json_object(), out);
  return field_error(name,
                     "expected a string for structured_outputs.regex, and true for "
                     "structured_outputs.json_object");
}

}  // namespace

bool asks_for_form(const Fields& fields) {
  for (const std::string_view name : kForms) {
    const json* value = fields.find(name);
    if (value != nullptr && asks(name, *value)) return true;
  }
  return false;
}

std::optional<ApiError> read_form(const Fields& fields, const ordered_json& body,
                                  Constraints& constraints, Constraints::Pointer* out) {
  std::string name;
  for (const std::string_view form : kForms) {
    const json* value = fields.find(form);
    if (value == nullptr || !asks(form, *value)) continue;
    if (!name.empty()) {
      return field_error(
          form, fmt::format("{} and {} both say what the answer is: give one", name, form));
    }
    name = form;
  }
  if (name.empty()) return std::nullopt;
  if (fields.boolean("ignore_eos")) {
    return field_error("ignore_eos",
                       fmt::format("ignore_eos goes on where {} ends the answer: give one", name));
  }
  const ordered_json& value = body[name];
  if (name == "response_format") return read_response_format(value, constraints, out);
  if (name == "structured_outputs") return read_structured_outputs(value, constraints, out);
  if (name == "guided_json") return read_schema(name, value, constraints, out);
  if (name == "guided_regex") return take(name, constraints.regex(value), out);
  return read_choices(name, value, constraints, out);
}

}  // namespace fourfold::serve
