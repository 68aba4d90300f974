#include "serve/tool_calls.h"

#include <algorithm>
#include <utility>

#include "files/json.h"

namespace fourfold::serve {

using nlohmann::ordered_json;

namespace {

constexpr std::string_view kOpen = "<tool_call>";
constexpr std::string_view kClose = "</tool_call>";
constexpr std::string_view kSpace = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

std::optional<ToolCall> call_of(const ordered_json& value) {
  if (!value.is_object() || !value.contains("name") || !value["name"].is_string()) {
    return std::nullopt;
  }
  for (const char* key : {"arguments", "parameters"}) {
    if (!value.contains(key)) continue;
    if (!value[key].is_object()) return std::nullopt;
    return ToolCall{value["name"], value[key].dump()};
  }
  return std::nullopt;
}

/// A model may write anything: what is too deep, or has a key twice, is no JSON here.
std::optional<ordered_json> parse(std::string_view text) {
  if (!files::parse_json(text, "a call").ok()) return std::nullopt;
  return ordered_json::parse(text);
}

/// The end of the JSON object that a text begins with.
size_t end_of_object(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && --depth == 0) {
      return i + 1;
    }
  }
  return std::string_view::npos;
}

/// The calls that a whole text is, with semicolons between them; none if it is anything else.
std::vector<ToolCall> calls_between_semicolons(std::string_view text) {
  std::vector<ToolCall> out;
  for (std::string_view rest = trimmed(text); !rest.empty();) {
    const size_t end = rest.starts_with('{') ? end_of_object(rest) : std::string_view::npos;
    if (end == std::string_view::npos) return {};
    const auto value = parse(rest.substr(0, end));
    const auto call = value ? call_of(*value) : std::nullopt;
    if (!call) return {};
    out.push_back(*call);
    rest = trimmed(rest.substr(end));
    if (rest.empty()) break;
    if (!rest.starts_with(';')) return {};
    rest = trimmed(rest.substr(1));
  }
  return out;
}

std::vector<ToolCall> calls_of_list(std::string_view text) {
  const auto list = parse(text);
  if (!list || !list->is_array()) return {};
  std::vector<ToolCall> out;
  for (const ordered_json& entry : *list) {
    const auto call = call_of(entry);
    if (!call) return {};
    out.push_back(*call);
  }
  return out;
}

/// How many bytes at the end of a text may be the beginning of `tag`.
size_t begun(std::string_view text, std::string_view tag) {
  for (size_t size = std::min(text.size(), tag.size() - 1); size > 0; --size) {
    if (text.ends_with(tag.substr(0, size))) return size;
  }
  return 0;
}

/// "#/..." of a schema that is moved to `place` in another.
void move_references(ordered_json& schema, const std::string& place) {
  if (schema.is_object()) {
    for (auto& [key, value] : schema.items()) {
      const bool is_local = key == "$ref" && value.is_string() &&
                            value.get_ref<const std::string&>().starts_with('#');
      if (is_local) {
        value = "#" + place + value.get_ref<const std::string&>().substr(1);
      } else {
        move_references(value, place);
      }
    }
  } else if (schema.is_array()) {
    for (ordered_json& value : schema) move_references(value, place);
  }
}

}  // namespace

base::Result<ToolCallFormat> tool_call_format(std::string_view name) {
  if (name == "none") return ToolCallFormat::kNone;
  if (name == "hermes") return ToolCallFormat::kHermes;
  if (name == "llama3_json") return ToolCallFormat::kLlama3Json;
  return base::fail("--tool-call-parser is {}, expected hermes, llama3_json or none", name);
}

ToolCallReader::Output ToolCallReader::push(std::string_view text) {
  Output out;
  held_ += text;
  if (format_ == ToolCallFormat::kHermes) {
    push_hermes(out);
  } else if (format_ == ToolCallFormat::kLlama3Json && !decided_) {
    const std::string_view begin = trimmed(held_);
    decided_ = !begin.empty() && !begin.starts_with('{');
  }
  if (format_ == ToolCallFormat::kNone || decided_) out.text = std::exchange(held_, {});
  return out;
}

void ToolCallReader::push_hermes(Output& out) {
  while (true) {
    const std::string_view tag = inside_ ? kClose : kOpen;
    const size_t at = held_.find(tag);
    if (at == std::string::npos) break;
    const std::string before = held_.substr(0, at);
    held_.erase(0, at + tag.size());
    if (inside_) {
      const auto value = parse(trimmed(before));
      const auto call = value ? call_of(*value) : std::nullopt;
      if (call) {
        out.calls.push_back(*call);
        called_ = true;
      } else {
        out.text.append(kOpen).append(before).append(kClose);
      }
    } else if (!trimmed(before).empty() || !called_) {
      out.text += before;  // but for space between calls
    }
    inside_ = !inside_;
  }
  if (inside_) return;
  size_t certain = held_.size() - begun(held_, kOpen);
  if (called_ && trimmed(held_.substr(0, certain)).empty()) certain = 0;
  out.text += held_.substr(0, certain);
  held_.erase(0, certain);
}

ToolCallReader::Output ToolCallReader::finish() {
  Output out;
  switch (format_) {
    case ToolCallFormat::kNone:
      break;
    case ToolCallFormat::kHermes:
      if (inside_) {
        // Some models end without the tag.
        const auto value = parse(trimmed(held_));
        const auto call = value ? call_of(*value) : std::nullopt;
        if (call) {
          out.calls.push_back(*call);
          held_.clear();
        } else {
          out.text = kOpen;
        }
      } else if (called_ && trimmed(held_).empty()) {
        held_.clear();
      }
      break;
    case ToolCallFormat::kLlama3Json:
      out.calls = calls_between_semicolons(held_);
      break;
    case ToolCallFormat::kNamed:
      out.calls.push_back({function_, std::exchange(held_, {})});
      break;
    case ToolCallFormat::kRequired:
      out.calls = calls_of_list(held_);
      break;
  }
  const bool whole = format_ == ToolCallFormat::kLlama3Json || format_ == ToolCallFormat::kRequired;
  if (whole && !out.calls.empty()) held_.clear();
  out.text += std::exchange(held_, {});
  return out;
}

ordered_json arguments_schema(const ordered_json& tool) {
  const ordered_json& function = tool["function"];
  const ordered_json schema = function.value("parameters", ordered_json());
  return schema.is_null() ? ordered_json{{"type", "object"}} : schema;
}

ordered_json required_calls_schema(const ordered_json& tools) {
  ordered_json calls = ordered_json::array();
  for (size_t i = 0; i < tools.size(); ++i) {
    ordered_json schema = arguments_schema(tools[i]);
    move_references(schema, "/items/anyOf/" + std::to_string(i) + "/properties/parameters");
    calls.push_back(
        {{"type", "object"},
         {"properties",
          {{"name", {{"const", tools[i]["function"]["name"]}}}, {"parameters", schema}}},
         {"required", {"name", "parameters"}}});
  }
  return {{"type", "array"}, {"minItems", 1}, {"items", {{"anyOf", calls}}}};
}

}  // namespace fourfold::serve
