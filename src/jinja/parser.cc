// The grammar of Jinja 3 (jinja2/parser.py has its precedences), without what needs other
// templates.

#include "jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "jinja/lexer.h"

namespace fourfold::jinja {
namespace {

using Kind = Token::Kind;

constexpr int64_t kMostTokens = 1 << 17;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
    if (std::ssize(tokens_) > kMostTokens) throw TemplateError("the template is too long");
  }

  Body run() {
    Body body = parse_body({});
    if (token().kind != Kind::kEnd) fail("unexpected end of a block that did not begin");
    return body;
  }

 private:
  class Nesting {
   public:
    explicit Nesting(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMostNested * 4) parser_.fail("the template is nested too deeply");
    }
    ~Nesting() { --parser_.depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Parser& parser_;
  };

  [[noreturn]] void fail(std::string_view what) const {
    throw TemplateError(fmt::format("line {}: {}", token().line, what));
  }

  const Token& token(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  Token take() {
    Token out = token();
    if (at_ + 1 < tokens_.size()) ++at_;
    return out;
  }
  bool is_operator(std::string_view text, size_t ahead = 0) const {
    return token(ahead).kind == Kind::kOperator && token(ahead).text == text;
  }
  bool is_name(std::string_view text, size_t ahead = 0) const {
    return token(ahead).kind == Kind::kName && token(ahead).text == text;
  }
  bool skip_operator(std::string_view text) {
    if (!is_operator(text)) return false;
    take();
    return true;
  }
  bool skip_name(std::string_view text) {
    if (!is_name(text)) return false;
    take();
    return true;
  }
  static std::string shown(const Token& token) {
    switch (token.kind) {
      case Kind::kText:
        return "text";
      case Kind::kBlockBegin:
        return "{%";
      case Kind::kBlockEnd:
        return "%}";
      case Kind::kVariableBegin:
        return "{{";
      case Kind::kVariableEnd:
        return "}}";
      case Kind::kString:
        return to_repr(token.text);
      case Kind::kEnd:
        return "the end of the template";
      default:
        return token.text;
    }
  }
  void expect_operator(std::string_view text) {
    if (!skip_operator(text)) fail(fmt::format("expected {}, found {}", text, shown(token())));
  }
  void expect_end_of_block() {
    if (token().kind != Kind::kBlockEnd)
      fail(fmt::format("expected %}}, found {}", shown(token())));
    take();
  }
  std::string expect_name() {
    if (token().kind != Kind::kName) fail(fmt::format("expected a name, found {}", shown(token())));
    return take().text;
  }

  ExpressionPtr make(Expression::Kind kind) const {
    auto out = std::make_unique<Expression>();
    out->kind = kind;
    out->line = token().line;
    return out;
  }
  template <typename... Parts>
  ExpressionPtr make(Expression::Kind kind, std::string name, Parts... parts) const {
    ExpressionPtr out = make(kind);
    out->name = std::move(name);
    (out->parts.push_back(std::move(parts)), ...);
    return out;
  }

  // Statements.

  /// Up to a block of one of these names, which is left to be read, or to the end.
  Body parse_body(std::initializer_list<std::string_view> ends) {
    const Nesting nesting(*this);
    Body out;
    while (token().kind != Kind::kEnd) {
      auto statement = std::make_unique<Statement>();
      statement->line = token().line;
      if (token().kind == Kind::kText) {
        statement->text = take().text;
      } else if (token().kind == Kind::kVariableBegin) {
        take();
        statement->kind = Statement::Kind::kPrint;
        statement->expression = parse_tuple();
        if (token().kind != Kind::kVariableEnd) {
          fail(fmt::format("expected }}}}, found {}", shown(token())));
        }
        take();
      } else {
        const Token& name = token(1);
        if (name.kind == Kind::kName &&
            std::find(ends.begin(), ends.end(), name.text) != ends.end()) {
          return out;
        }
        take();
        parse_statement(*statement);
      }
      out.push_back(std::move(statement));
    }
    if (ends.size() > 0) fail(fmt::format("expected {{% {} %}}", *(ends.end() - 1)));
    return out;
  }

  /// Reads {% NAME of a block that parse_body stopped at.
  std::string take_block_name() {
    take();
    return take().text;
  }
  void end_block(std::string_view name) {
    const std::string found = take_block_name();
    if (found != name) fail(fmt::format("expected {{% {} %}}, found {}", name, found));
    if (name == "endmacro" && token().kind == Kind::kName) take();
    expect_end_of_block();
  }

  void parse_statement(Statement& out) {
    const std::string name = expect_name();
    if (name == "if") return parse_if(out);
    if (name == "for") return parse_for(out);
    if (name == "set") return parse_set(out);
    if (name == "macro") return parse_macro(out);
    if (name == "call") return parse_call_block(out);
    if (name == "filter") {
      out.kind = Statement::Kind::kFilter;
      out.filters = parse_filters(make(Expression::Kind::kName), /*first=*/true);
      expect_end_of_block();
      out.body = parse_body({"endfilter"});
      return end_block("endfilter");
    }
    if (name == "generation") {  // of transformers: marks what the model writes
      out.kind = Statement::Kind::kScope;
      expect_end_of_block();
      out.body = parse_body({"endgeneration"});
      return end_block("endgeneration");
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) fail(fmt::format("{} outside of a loop", name));
      out.kind = name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
      return expect_end_of_block();
    }
    fail(fmt::format("unknown or misplaced block {{% {} %}}", name));
  }

  void parse_if(Statement& out) {
    out.kind = Statement::Kind::kIf;
    ExpressionPtr condition = parse_tuple(/*with_condition=*/false);
    while (true) {
      expect_end_of_block();
      out.branches.emplace_back(std::move(condition), parse_body({"elif", "else", "endif"}));
      const std::string name = take_block_name();
      if (name == "endif") break;
      condition = name == "elif" ? parse_tuple(/*with_condition=*/false) : nullptr;
      if (name == "else") {
        expect_end_of_block();
        out.branches.emplace_back(nullptr, parse_body({"endif"}));
        return end_block("endif");
      }
    }
    expect_end_of_block();
  }

  void parse_for(Statement& out) {
    out.kind = Statement::Kind::kFor;
    out.targets = parse_targets(/*members=*/false);
    if (!skip_name("in")) fail(fmt::format("expected in, found {}", shown(token())));
    out.expression = parse_tuple(/*with_condition=*/false);
    if (skip_name("if")) out.condition = parse_expression();
    if (is_name("recursive")) fail("recursive loops are not supported");
    expect_end_of_block();
    ++loops_;
    out.body = parse_body({"else", "endfor"});
    --loops_;
    if (is_name("else", 1)) {
      take_block_name();
      expect_end_of_block();
      out.otherwise = parse_body({"endfor"});
    }
    end_block("endfor");
  }

  std::vector<std::string> parse_targets(bool members) {
    std::vector<std::string> out;
    const bool brackets = skip_operator("(");
    do {
      if (!out.empty() && (is_name("in") || is_operator("="))) break;
      std::string name = expect_name();
      if (members && skip_operator(".")) name += "." + expect_name();
      out.push_back(std::move(name));
    } while (skip_operator(","));
    if (brackets) expect_operator(")");
    return out;
  }

  void parse_set(Statement& out) {
    out.targets = parse_targets(/*members=*/true);
    if (skip_operator("=")) {
      out.kind = Statement::Kind::kSet;
      out.expression = parse_tuple();
      return expect_end_of_block();
    }
    out.kind = Statement::Kind::kSetBlock;
    if (out.targets.size() != 1) fail("a set block has one name");
    if (is_operator("|")) out.filters = parse_filters(make(Expression::Kind::kName), false);
    expect_end_of_block();
    out.body = parse_body({"endset"});
    end_block("endset");
  }

  void parse_parameters(Statement& out) {
    expect_operator("(");
    while (!is_operator(")")) {
      if (!out.parameters.empty()) expect_operator(",");
      if (is_operator(")")) break;
      Parameter parameter{.name = expect_name(), .fallback = nullptr};
      if (skip_operator("=")) {
        parameter.fallback = parse_expression();
      } else if (!out.parameters.empty() && out.parameters.back().fallback != nullptr) {
        fail("a parameter without a default follows one that has one");
      }
      out.parameters.push_back(std::move(parameter));
    }
    expect_operator(")");
  }

  Body parse_inner_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body out = parse_body({end});
    loops_ = loops;
    return out;
  }

  void parse_macro(Statement& out) {
    out.kind = Statement::Kind::kMacro;
    out.name = expect_name();
    parse_parameters(out);
    expect_end_of_block();
    out.body = parse_inner_body("endmacro");
    end_block("endmacro");
  }

  void parse_call_block(Statement& out) {
    out.kind = Statement::Kind::kCallBlock;
    out.name = "caller";
    if (is_operator("(")) parse_parameters(out);
    out.expression = parse_expression();
    if (out.expression->kind != Expression::Kind::kCall) fail("expected a call");
    expect_end_of_block();
    out.body = parse_inner_body("endcall");
    end_block("endcall");
  }

  // Expressions, from the loosest binding to the tightest.

  ExpressionPtr parse_tuple(bool with_condition = true) {
    const auto element = [&] { return with_condition ? parse_expression() : parse_or(); };
    ExpressionPtr first = element();
    if (!is_operator(",")) return first;
    ExpressionPtr tuple = make(Expression::Kind::kTuple);
    tuple->parts.push_back(std::move(first));
    while (skip_operator(",")) {
      if (ends_tuple()) break;
      tuple->parts.push_back(element());
    }
    return tuple;
  }
  bool ends_tuple() const {
    return token().kind == Kind::kVariableEnd || token().kind == Kind::kBlockEnd ||
           is_operator(")") || is_name("if");
  }

  ExpressionPtr parse_expression() {
    const Nesting nesting(*this);
    ExpressionPtr out = parse_or();
    while (skip_name("if")) {
      ExpressionPtr condition = parse_or();
      ExpressionPtr otherwise = skip_name("else") ? parse_expression() : nullptr;
      out = make(Expression::Kind::kCondition, "", std::move(out), std::move(condition),
                 std::move(otherwise));
    }
    return out;
  }

  ExpressionPtr parse_or() {
    ExpressionPtr out = parse_and();
    while (skip_name("or")) {
      out = make(Expression::Kind::kBinary, "or", std::move(out), parse_and());
    }
    return out;
  }
  ExpressionPtr parse_and() {
    ExpressionPtr out = parse_not();
    while (skip_name("and")) {
      out = make(Expression::Kind::kBinary, "and", std::move(out), parse_not());
    }
    return out;
  }
  ExpressionPtr parse_not() {
    const Nesting nesting(*this);
    if (skip_name("not")) return make(Expression::Kind::kUnary, "not", parse_not());
    return parse_compare();
  }

  ExpressionPtr parse_compare() {
    ExpressionPtr first = parse_sum();
    ExpressionPtr out;
    while (true) {
      std::string op;
      if (token().kind == Kind::kOperator) {
        for (const char* known : {"==", "!=", "<=", ">=", "<", ">"}) {
          if (token().text == known) op = known;
        }
        if (op.empty()) break;
        take();
      } else if (skip_name("in")) {
        op = "in";
      } else if (is_name("not") && is_name("in", 1)) {
        take();
        take();
        op = "not in";
      } else {
        break;
      }
      if (out == nullptr) {
        out = make(Expression::Kind::kCompare);
        out->parts.push_back(std::move(first));
      }
      out->names.push_back(op);
      out->parts.push_back(parse_sum());
    }
    return out != nullptr ? std::move(out) : std::move(first);
  }

  template <typename Next>
  ExpressionPtr parse_left(std::initializer_list<std::string_view> operators, const Next& next) {
    ExpressionPtr out = next();
    while (token().kind == Kind::kOperator &&
           std::find(operators.begin(), operators.end(), token().text) != operators.end()) {
      std::string op = take().text;
      out = make(Expression::Kind::kBinary, std::move(op), std::move(out), next());
    }
    return out;
  }
  ExpressionPtr parse_sum() {
    return parse_left({"+", "-"}, [this] { return parse_concatenation(); });
  }
  ExpressionPtr parse_concatenation() {
    return parse_left({"~"}, [this] { return parse_product(); });
  }
  ExpressionPtr parse_product() {
    return parse_left({"*", "/", "//", "%"}, [this] { return parse_power(); });
  }
  ExpressionPtr parse_power() {
    return parse_left({"**"}, [this] { return parse_unary(/*with_filters=*/true); });
  }

  ExpressionPtr parse_unary(bool with_filters) {
    const Nesting nesting(*this);
    ExpressionPtr out;
    if (is_operator("-") || is_operator("+")) {
      std::string op = take().text;
      out = make(Expression::Kind::kUnary, std::move(op), parse_unary(false));
    } else {
      out = parse_primary();
    }
    out = parse_postfix(std::move(out));
    return with_filters ? parse_filters(std::move(out), false) : std::move(out);
  }

  ExpressionPtr parse_primary() {
    const Token first = take();
    ExpressionPtr out = make(Expression::Kind::kLiteral);
    out->line = first.line;
    switch (first.kind) {
      case Kind::kName: {
        const std::string& name = first.text;
        if (name == "true" || name == "True") {
          out->value = true;
        } else if (name == "false" || name == "False") {
          out->value = false;
        } else if (name != "none" && name != "None") {
          out->kind = Expression::Kind::kName;
          out->name = name;
        }
        return out;
      }
      case Kind::kString: {
        std::string text = first.text;
        while (token().kind == Kind::kString) text += take().text;
        out->value = std::move(text);
        return out;
      }
      case Kind::kInteger:
        out->value = first.integer;
        return out;
      case Kind::kFloat:
        out->value = first.number;
        return out;
      default:
        break;
    }
    if (first.kind == Kind::kOperator && first.text == "(") {
      if (skip_operator(")")) return make(Expression::Kind::kTuple);
      out = parse_tuple();
      expect_operator(")");
      return out;
    }
    if (first.kind == Kind::kOperator && (first.text == "[" || first.text == "{")) {
      const bool list = first.text == "[";
      const std::string_view end = list ? "]" : "}";
      out->kind = list ? Expression::Kind::kList : Expression::Kind::kDict;
      while (!is_operator(end)) {
        if (!out->parts.empty()) expect_operator(",");
        if (is_operator(end)) break;
        out->parts.push_back(parse_expression());
        if (list) continue;
        expect_operator(":");
        out->parts.push_back(parse_expression());
      }
      expect_operator(end);
      return out;
    }
    fail(fmt::format("unexpected {}", shown(first)));
  }

  ExpressionPtr parse_postfix(ExpressionPtr out) {
    while (true) {
      if (skip_operator(".")) {
        if (token().kind == Kind::kInteger) {
          ExpressionPtr index = make(Expression::Kind::kLiteral);
          index->value = take().integer;
          out = make(Expression::Kind::kItem, "", std::move(out), std::move(index));
        } else {
          std::string name = expect_name();
          out = make(Expression::Kind::kAttribute, std::move(name), std::move(out));
        }
      } else if (skip_operator("[")) {
        out = parse_subscript(std::move(out));
      } else if (is_operator("(")) {
        out = make(Expression::Kind::kCall, "", std::move(out));
        out->arguments = parse_arguments();
      } else {
        return out;
      }
    }
  }

  ExpressionPtr parse_subscript(ExpressionPtr what) {
    ExpressionPtr first = is_operator(":") ? nullptr : parse_tuple();
    if (!is_operator(":")) {
      expect_operator("]");
      return make(Expression::Kind::kItem, "", std::move(what), std::move(first));
    }
    ExpressionPtr out = make(Expression::Kind::kSlice, "", std::move(what), std::move(first));
    for (int i = 0; i < 2; ++i) {
      const bool here = skip_operator(":");
      const bool written = here && !is_operator(":") && !is_operator("]");
      out->parts.push_back(written ? parse_expression() : nullptr);
    }
    expect_operator("]");
    return out;
  }

  Arguments parse_arguments() {
    Arguments out;
    expect_operator("(");
    bool first = true;
    while (!is_operator(")")) {
      if (!first) expect_operator(",");
      first = false;
      if (is_operator(")")) break;
      if (is_operator("*") || is_operator("**")) fail("arguments with * are not supported");
      if (token().kind == Kind::kName && is_operator("=", 1)) {
        std::string name = take().text;
        take();
        out.named.emplace_back(std::move(name), parse_expression());
      } else {
        if (!out.named.empty()) fail("a positional argument follows a named one");
        out.positional.push_back(parse_expression());
      }
    }
    expect_operator(")");
    return out;
  }

  std::string parse_dotted_name() {
    std::string name = expect_name();
    while (skip_operator(".")) name += "." + expect_name();
    return name;
  }

  /// Filters, tests and calls behind an expression. `first`: a filter's name comes at once.
  ExpressionPtr parse_filters(ExpressionPtr out, bool first) {
    while (true) {
      if (first || skip_operator("|")) {
        first = false;
        std::string name = parse_dotted_name();
        out = make(Expression::Kind::kFilter, std::move(name), std::move(out));
        if (is_operator("(")) out->arguments = parse_arguments();
      } else if (skip_name("is")) {
        out = parse_test(std::move(out));
      } else if (is_operator("(")) {
        out = make(Expression::Kind::kCall, "", std::move(out));
        out->arguments = parse_arguments();
      } else {
        return out;
      }
    }
  }

  ExpressionPtr parse_test(ExpressionPtr what) {
    const bool negated = skip_name("not");
    std::string name = parse_dotted_name();
    ExpressionPtr out = make(Expression::Kind::kTest, std::move(name), std::move(what));
    const Kind kind = token().kind;
    const bool word = kind == Kind::kName && !is_name("else") && !is_name("or") &&
                      !is_name("and") && !is_name("is") && !is_name("if") && !is_name("in") &&
                      !is_name("not");
    if (is_operator("(")) {
      out->arguments = parse_arguments();
    } else if (word || kind == Kind::kString || kind == Kind::kInteger || kind == Kind::kFloat ||
               is_operator("[") || is_operator("{")) {
      out->arguments.positional.push_back(parse_postfix(parse_primary()));
    }
    if (negated) out = make(Expression::Kind::kUnary, "not", std::move(out));
    return out;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

Body parse(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace fourfold::jinja
