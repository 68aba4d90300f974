#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fourfold::jinja {

struct Token {
  enum class Kind {
    kText,           ///< outside of tags
    kBlockBegin,     ///< {%
    kBlockEnd,       ///< %}
    kVariableBegin,  ///< {{
    kVariableEnd,    ///< }}
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind = Kind::kEnd;
  std::string text;  ///< of a string what it means
  int64_t integer = 0;
  double number = 0;
  int line = 0;
};

/// Cuts a template as Jinja 3 does with trim_blocks and lstrip_blocks, and without the template's
/// last newline: a newline after a block or comment goes, and so does white space between the begin
/// of a line and a block or comment; - strips more, + less. Throws TemplateError.
std::vector<Token> tokenize(std::string_view source);

}  // namespace fourfold::jinja
