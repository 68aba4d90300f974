#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "jinja/value.h"

namespace fourfold::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

/// Arguments as they are written.
struct Arguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Expression {
  enum class Kind {
    kLiteral,    ///< value
    kName,       ///< name
    kList,       ///< parts
    kTuple,      ///< parts
    kDict,       ///< parts: key, value, key, …
    kUnary,      ///< name: "-", "+", "not"; parts[0]
    kBinary,     ///< name: the operator, "and", "or"; parts[0], parts[1]
    kCompare,    ///< parts[0], then parts[i + 1] by names[i]
    kCondition,  ///< parts: then, condition, else (or null)
    kAttribute,  ///< parts[0] . name
    kItem,       ///< parts[0] [ parts[1] ]
    kSlice,      ///< parts: what, begin, end, step; null where not written
    kCall,       ///< parts[0] ( arguments )
    kFilter,     ///< parts[0] | name ( arguments )
    kTest,       ///< parts[0] is name ( arguments )
  };
  Kind kind = Kind::kLiteral;
  int line = 0;
  Value value;
  std::string name;
  std::vector<std::string> names;
  std::vector<ExpressionPtr> parts;
  Arguments arguments;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Parameter {
  std::string name;
  ExpressionPtr fallback;  ///< null: none
};

struct Statement {
  enum class Kind {
    kText,       ///< text
    kPrint,      ///< expression
    kIf,         ///< branches, the last one maybe without a condition
    kFor,        ///< targets in expression if condition: body, else otherwise
    kSet,        ///< targets = expression
    kSetBlock,   ///< targets = body through filters
    kMacro,      ///< name(parameters): body
    kCallBlock,  ///< expression, a call, whose caller(parameters) is body
    kFilter,     ///< body through filters
    kScope,      ///< body, printed as it is
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 0;
  std::string text;
  std::string name;
  /// Names, or "a.b" for a member of a namespace.
  std::vector<std::string> targets;
  ExpressionPtr expression;
  ExpressionPtr condition;
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  std::vector<Parameter> parameters;
  Body body;
  Body otherwise;
  /// Filters around `body`: filter expressions whose innermost part is the name "".
  ExpressionPtr filters;
};

}  // namespace fourfold::jinja
