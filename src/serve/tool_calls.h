#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace fourfold::serve {

/// How a model writes that it calls functions.
enum class ToolCallFormat : uint8_t {
  kNone,        ///< it does not: all is text
  kHermes,      ///< <tool_call>{"name": …, "arguments": {…}}</tool_call>, as Hermes and Qwen do
  kLlama3Json,  ///< the whole answer is {"name": …, "parameters": {…}}, or several between ;
  kNamed,       ///< the whole answer is the arguments of one function, as it was constrained to
  kRequired,    ///< the whole answer is a list of {"name": …, "parameters": {…}}, likewise
};

/// --tool-call-parser's name for a format. Errors: it is none of them.
base::Result<ToolCallFormat> tool_call_format(std::string_view name);

struct ToolCall {
  std::string name;
  std::string arguments;  ///< a JSON object
};

/// Takes calls out of the text of an answer as it comes. What turns out to be no call stays text:
/// nothing is lost.
class ToolCallReader {
 public:
  struct Output {
    std::string text;
    std::vector<ToolCall> calls;
  };

  /// `function`: kNamed: whose arguments the text is.
  explicit ToolCallReader(ToolCallFormat format, std::string function = {})
      : format_(format), function_(std::move(function)) {}

  Output push(std::string_view text);
  /// What has been held back.
  Output finish();

 private:
  void push_hermes(Output& out);

  ToolCallFormat format_;
  std::string function_;
  std::string held_;
  bool inside_ = false;   ///< of a call's tags
  bool decided_ = false;  ///< kLlama3Json: the answer is text
  bool called_ = false;
};

/// A schema of the calls that kRequired reads: of one of the request's tools each.
nlohmann::ordered_json required_calls_schema(const nlohmann::ordered_json& tools);
/// What a tool's arguments are; any object where it does not say.
nlohmann::ordered_json arguments_schema(const nlohmann::ordered_json& tool);

}  // namespace fourfold::serve
