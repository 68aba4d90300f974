#include "serve/tools.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string>
#include <utility>

#include "serve/request_json.h"

namespace fourfold::serve {

using nlohmann::json;
using nlohmann::ordered_json;

namespace {

constexpr size_t kMostTools = 128;
constexpr size_t kMostNameBytes = 64;

bool is_name(const ordered_json& value) {
  if (!value.is_string()) return false;
  const auto& name = value.get_ref<const std::string&>();
  return !name.empty() && name.size() <= kMostNameBytes &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
         });
}

std::optional<ApiError> check_tool(const ordered_json& tool, size_t index) {
  const auto refuse = [&](const char* what) {
    return field_error("tools", fmt::format("tools[{}] {}", index, what));
  };
  if (!tool.is_object() || tool.value("type", ordered_json()) != "function" ||
      !tool.contains("function") || !tool["function"].is_object()) {
    return refuse("is no object with \"type\": \"function\" and a function");
  }
  const ordered_json& function = tool["function"];
  if (!is_name(function.value("name", ordered_json()))) {
    return refuse("needs a name of 1 to 64 letters, digits, _, - and .");
  }
  const ordered_json parameters = function.value("parameters", ordered_json());
  if (!parameters.is_null() && !parameters.is_object()) {
    return refuse("has parameters that are no JSON schema");
  }
  return std::nullopt;
}

const ordered_json* find_tool(const ordered_json& tools, const ordered_json& name) {
  for (const ordered_json& tool : tools) {
    if (tool["function"]["name"] == name) return &tool;
  }
  return nullptr;
}

/// Constrains the answer to what `schema` says.
std::optional<ApiError> constrain(const ordered_json& schema, const Fields& fields,
                                  const ServedModel& model, GenerationRequest* out) {
  if (out->constraint != nullptr) {
    return field_error("tool_choice",
                       "tool_choice asks for a call, another field for an answer of another form: "
                       "give one");
  }
  if (fields.boolean("ignore_eos")) {
    return field_error("ignore_eos", "ignore_eos goes on where the call of tool_choice ends");
  }
  auto made = model.constraints->json_schema(schema);
  if (!made.ok()) return field_error("tools", "tools: " + made.error().message);
  out->constraint = std::move(made).value();
  return std::nullopt;
}

}  // namespace

std::optional<ApiError> read_tools(const Fields& fields, const ordered_json& body,
                                   const ServedModel& model, ordered_json* tools) {
  if (fields.find("tools") == nullptr || body["tools"].empty()) return std::nullopt;
  const ordered_json& list = body["tools"];
  if (list.size() > kMostTools) {
    return field_error("tools",
                       fmt::format("{} tools, expected at most {}", list.size(), kMostTools));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    if (auto error = check_tool(list[i], i)) return error;
  }
  if (model.chat_template && !model.chat_template->takes_tools()) {
    return field_error("tools",
                       "this model's chat template takes no tools: leave them out, or give the "
                       "server a template that does (--chat-template)");
  }
  *tools = list;
  return std::nullopt;
}

std::optional<ApiError> read_tool_choice(const Fields& fields, const ordered_json& tools,
                                         const ServedModel& model, GenerationRequest* out) {
  const json* given = fields.find("tool_choice");
  const json choice = given != nullptr ? *given : json(tools.is_null() ? "none" : "auto");
  if (choice == "none") return std::nullopt;
  if (tools.is_null()) return field_error("tool_choice", "tool_choice needs tools");
  if (choice == "auto") {
    out->tool_calls = model.tool_calls;
    if (model.tool_calls != ToolCallFormat::kNone) return std::nullopt;
    return field_error("tool_choice",
                       "this server does not look for calls in answers: start it with "
                       "--enable-auto-tool-choice and --tool-call-parser, or ask for "
                       "\"tool_choice\": \"none\" or \"required\"");
  }
  if (choice == "required") {
    out->tool_calls = ToolCallFormat::kRequired;
    return constrain(required_calls_schema(tools), fields, model, out);
  }
  const bool is_function = choice.is_object() && choice.value("type", json()) == "function" &&
                           choice.contains("function") && choice["function"].is_object();
  if (!is_function) {
    return field_error("tool_choice",
                       fmt::format("tool_choice is {}, expected none, auto, required or a function",
                                   shown(choice)));
  }
  const json name = choice["function"].value("name", json());
  const ordered_json* tool =
      name.is_string() ? find_tool(tools, ordered_json(name.get<std::string>())) : nullptr;
  if (tool == nullptr) {
    return field_error("tool_choice",
                       fmt::format("tool_choice names {}, which is none of tools", shown(name)));
  }
  out->tool_calls = ToolCallFormat::kNamed;
  out->function = name;
  return constrain(arguments_schema(*tool), fields, model, out);
}

std::optional<ApiError> read_earlier_calls(ordered_json& message, size_t index) {
  if (!message.contains("tool_calls")) return std::nullopt;
  const auto refuse = [&] {
    return field_error("messages",
                       fmt::format("messages[{}].tool_calls is no list of calls of functions with "
                                   "arguments that are a JSON object",
                                   index));
  };
  ordered_json& calls = message["tool_calls"];
  if (!calls.is_array()) return refuse();
  for (ordered_json& call : calls) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) {
      return refuse();
    }
    ordered_json& function = call["function"];
    if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
    ordered_json arguments;
    const auto text = function["arguments"].get<std::string>();
    if (parse_ordered(text, "messages", &arguments) || !arguments.is_object()) return refuse();
    function["arguments"] = std::move(arguments);
  }
  return std::nullopt;
}

}  // namespace fourfold::serve
