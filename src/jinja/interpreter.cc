#include "jinja/interpreter.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "jinja/builtins.h"

namespace fourfold::jinja {
namespace {

/// Names of one block, loop or macro, in front of those around it.
struct Scope;
using ScopePtr = std::shared_ptr<Scope>;
struct Scope {
  ScopePtr outer;
  std::vector<std::pair<std::string, Value>> names;

  const Value* find(std::string_view name) const {
    for (const auto& [known, value] : names) {
      if (known == name) return &value;
    }
    return nullptr;
  }
  void set(std::string_view name, Value value) {
    for (auto& [known, old] : names) {
      if (known != name) continue;
      old = std::move(value);
      return;
    }
    names.emplace_back(name, std::move(value));
  }
};

enum class Flow { kOn, kBreak, kContinue };

class Interpreter {
 public:
  Interpreter(const Dict& variables, const Dict& globals, Budget& budget)
      : variables_(variables), globals_(globals), budget_(budget) {}

  ~Interpreter() {
    for (const ScopePtr& scope : kept_) scope->names.clear();
  }
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  std::string run(const Body& body) {
    std::string out;
    execute(body, root_, out);
    return out;
  }

 private:
  class Nesting {
   public:
    explicit Nesting(int& depth) : depth_(depth) {
      if (++depth_ > kMostNested * 4) throw TemplateError("calls are nested too deeply");
    }
    ~Nesting() { --depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    int& depth_;
  };

  // Statements.

  Flow execute(const Body& body, const ScopePtr& scope, std::string& out) {
    for (const auto& statement : body) {
      budget_.step();
      const Flow flow = execute(*statement, scope, out);
      if (flow != Flow::kOn) return flow;
    }
    return Flow::kOn;
  }

  void print(std::string_view text, std::string& out) {
    budget_.take(text.size());
    out += text;
  }

  Flow execute(const Statement& s, const ScopePtr& scope, std::string& out) {
    const Nesting nesting(depth_);
    switch (s.kind) {
      case Statement::Kind::kText:
        print(s.text, out);
        break;
      case Statement::Kind::kPrint:
        print(to_text(evaluate(*s.expression, scope)), out);
        break;
      case Statement::Kind::kIf:
        for (const auto& [condition, body] : s.branches) {
          if (condition == nullptr || evaluate(*condition, scope).truthy()) {
            return execute(body, scope, out);
          }
        }
        break;
      case Statement::Kind::kFor:
        return execute_for(s, scope, out);
      case Statement::Kind::kSet:
        assign(s, evaluate(*s.expression, scope), scope);
        break;
      case Statement::Kind::kSetBlock:
      case Statement::Kind::kFilter:
      case Statement::Kind::kScope: {
        std::string text;
        const Flow flow =
            execute(s.body, std::make_shared<Scope>(Scope{.outer = scope, .names = {}}), text);
        if (flow != Flow::kOn) return flow;  // and what was captured is gone
        const Value result = filtered(s, std::move(text), scope);
        if (s.kind == Statement::Kind::kSetBlock) {
          assign(s, result, scope);
        } else {
          print(to_text(result), out);
        }
        break;
      }
      case Statement::Kind::kMacro:
        scope->set(s.name, macro(s, scope));
        break;
      case Statement::Kind::kCallBlock: {
        Value caller = macro(s, scope);
        print(to_text(call(*s.expression, scope, &caller)), out);
        break;
      }
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kOn;
  }

  Value filtered(const Statement& s, std::string text, const ScopePtr& scope) {
    if (s.filters == nullptr) return text;
    const auto inner = std::make_shared<Scope>(Scope{.outer = scope, .names = {}});
    inner->set("", Value(std::move(text)));
    return evaluate(*s.filters, inner);
  }

  static void bind(const std::vector<std::string>& targets, const Value& value,
                   const ScopePtr& scope) {
    if (targets.size() == 1) return scope->set(targets[0], value);
    const std::vector<Value> parts = elements(value);
    if (parts.size() != targets.size()) {
      throw TemplateError(fmt::format("{} names for {} values", targets.size(), parts.size()));
    }
    for (size_t i = 0; i < targets.size(); ++i) scope->set(targets[i], parts[i]);
  }

  void assign(const Statement& s, const Value& value, const ScopePtr& scope) {
    const std::string& target = s.targets[0];
    const size_t dot = target.find('.');
    if (dot == std::string::npos) return bind(s.targets, value, scope);
    const Value object = lookup(std::string_view(target).substr(0, dot), scope);
    if (!object.is_namespace() || object.names().fixed || s.targets.size() > 1) {
      throw TemplateError(fmt::format("line {}: only members of a namespace can be set", s.line));
    }
    object.names().members.set(target.substr(dot + 1), value);
  }

  Flow execute_for(const Statement& s, const ScopePtr& scope, std::string& out) {
    const Value walked = evaluate(*s.expression, scope);
    budget_.touch(walked);
    std::vector<Value> all = elements(walked);
    if (s.condition != nullptr) {
      std::vector<Value> kept;
      for (Value& value : all) {
        const auto inner = std::make_shared<Scope>(Scope{.outer = scope, .names = {}});
        bind(s.targets, value, inner);
        budget_.step();
        if (evaluate(*s.condition, inner).truthy()) kept.push_back(std::move(value));
      }
      all = std::move(kept);
    }
    const Value::NamespacePtr loop = budget_.own({.members = {}, .fixed = true});
    bool reached_an_end = false;
    for (size_t i = 0; i < all.size(); ++i) {
      budget_.step();
      const auto inner = std::make_shared<Scope>(Scope{.outer = scope, .names = {}});
      describe(loop, all, i);
      inner->set("loop", Value(loop));
      bind(s.targets, all[i], inner);
      const Flow flow = execute(s.body, inner, out);
      reached_an_end = reached_an_end || flow == Flow::kOn;
      if (flow == Flow::kBreak) break;
    }
    if (reached_an_end || s.otherwise.empty()) return Flow::kOn;
    // As Jinja has it: where no turn came to its end.
    return execute(s.otherwise, std::make_shared<Scope>(Scope{.outer = scope, .names = {}}), out);
  }

  /// The loop variable at element `i`.
  static void describe(const Value::NamespacePtr& loop, const std::vector<Value>& all, size_t i) {
    const auto index = static_cast<int64_t>(i);
    const int64_t count = std::ssize(all);
    Dict& members = loop->members;
    const bool again = !members.items.empty();
    members.set("index0", index);
    members.set("index", index + 1);
    members.set("revindex0", count - 1 - index);
    members.set("revindex", count - index);
    members.set("first", i == 0);
    members.set("last", index + 1 == count);
    members.set("previtem", i > 0 ? all[i - 1] : Value(Undefined{"there is no previous item"}));
    members.set("nextitem",
                index + 1 < count ? all[i + 1] : Value(Undefined{"there is no next item"}));
    if (again) return;
    members.set("length", count);
    members.set("depth", int64_t{1});
    members.set("depth0", int64_t{0});
    const std::weak_ptr<Namespace> weak = loop;
    members.set("cycle", Callable{"cycle", [weak](Call& call) {
                                    const auto of_loop = weak.lock();
                                    if (of_loop == nullptr || call.positional.empty()) {
                                      throw TemplateError("cycle needs a loop and values");
                                    }
                                    const auto at = static_cast<size_t>(
                                        of_loop->members.named("index0")->integer());
                                    return call.positional[at % call.positional.size()];
                                  }});
    auto last = std::make_shared<std::optional<Value>>();
    members.set("changed", Callable{"changed", [last](Call& call) {
                                      Value now = List{.items = call.positional, .tuple = true};
                                      const bool changed = !*last || !equal(**last, now);
                                      *last = std::move(now);
                                      return Value(changed);
                                    }});
  }

  /// A macro sees the names of where it is defined, as they are when it is called.
  Value macro(const Statement& s, const ScopePtr& scope) {
    budget_.take(sizeof(Scope));
    kept_.push_back(scope);
    // Not owned: a macro is among the names of its scope.
    const std::weak_ptr<Scope> around = scope;
    return Callable{s.name, [this, &s, around](Call& call) {
                      const Nesting nesting(depth_);
                      const auto inner =
                          std::make_shared<Scope>(Scope{.outer = around.lock(), .names = {}});
                      bind_parameters(s, call, inner);
                      std::string out;
                      execute(s.body, inner, out);
                      return Value(std::move(out));
                    }};
  }

  void bind_parameters(const Statement& s, Call& call, const ScopePtr& inner) {
    if (call.positional.size() > s.parameters.size()) {
      throw TemplateError(fmt::format("macro {} takes at most {} arguments, {} given", s.name,
                                      s.parameters.size(), call.positional.size()));
    }
    // A default sees the parameters, and those that are not set yet as undefined.
    for (const Parameter& parameter : s.parameters) {
      inner->set(parameter.name,
                 Undefined{fmt::format("parameter '{}' was not provided", parameter.name)});
    }
    std::vector<bool> given(s.parameters.size());
    for (size_t i = 0; i < call.positional.size(); ++i) {
      inner->set(s.parameters[i].name, call.positional[i]);
      given[i] = true;
    }
    for (const auto& argument : call.named) {
      const auto known =
          std::find_if(s.parameters.begin(), s.parameters.end(),
                       [&argument](const Parameter& p) { return p.name == argument.first; });
      const auto i = static_cast<size_t>(known - s.parameters.begin());
      if (i == given.size() && argument.first != "caller") {
        throw TemplateError(
            fmt::format("macro {} takes no argument \"{}\"", s.name, argument.first));
      }
      if (i < given.size() && given[i]) {
        throw TemplateError(
            fmt::format("macro {} got the argument \"{}\" twice", s.name, argument.first));
      }
      if (i < given.size()) given[i] = true;
      inner->set(argument.first, argument.second);
    }
    for (size_t i = 0; i < s.parameters.size(); ++i) {
      const Parameter& parameter = s.parameters[i];
      if (!given[i] && parameter.fallback != nullptr) {
        inner->set(parameter.name, evaluate(*parameter.fallback, inner));
      }
    }
  }

  // Expressions.

  Value lookup(std::string_view name, const ScopePtr& scope) const {
    for (const Scope* at = scope.get(); at != nullptr; at = at->outer.get()) {
      if (const Value* found = at->find(name)) return *found;
    }
    if (const Value* found = variables_.named(name)) return *found;
    if (const Value* found = globals_.named(name)) return *found;
    return Undefined{fmt::format("'{}' is undefined", name)};
  }

  Value evaluate(const Expression& e, const ScopePtr& scope) {
    const Nesting nesting(depth_);
    budget_.step();
    try {
      return value_of(e, scope);
    } catch (const TemplateError& error) {
      const std::string_view what = error.what();
      if (what.starts_with("line ")) throw;
      throw TemplateError(fmt::format("line {}: {}", e.line, what));
    }
  }

  Value part(const Expression& e, size_t i, const ScopePtr& scope) {
    return e.parts[i] == nullptr ? Value() : evaluate(*e.parts[i], scope);
  }

  Value value_of(const Expression& e, const ScopePtr& scope) {
    switch (e.kind) {
      case Expression::Kind::kLiteral:
        return e.value;
      case Expression::Kind::kName:
        return lookup(e.name, scope);
      case Expression::Kind::kList:
      case Expression::Kind::kTuple: {
        List out{.items = {}, .tuple = e.kind == Expression::Kind::kTuple};
        for (size_t i = 0; i < e.parts.size(); ++i) out.items.push_back(part(e, i, scope));
        return out;
      }
      case Expression::Kind::kDict: {
        Dict out;
        for (size_t i = 0; i < e.parts.size(); i += 2) {
          Value key = part(e, i, scope);
          check_key(key);
          out.set(std::move(key), part(e, i + 1, scope));
        }
        return out;
      }
      case Expression::Kind::kUnary:
        return unary(e, scope);
      case Expression::Kind::kBinary: {
        Value left = part(e, 0, scope);
        if (e.name == "and") return left.truthy() ? part(e, 1, scope) : left;
        if (e.name == "or") return left.truthy() ? left : part(e, 1, scope);
        return arithmetic(e.name, left, part(e, 1, scope), budget_);
      }
      case Expression::Kind::kCompare:
        return compared(e, scope);
      case Expression::Kind::kCondition:
        if (part(e, 1, scope).truthy()) return part(e, 0, scope);
        if (e.parts[2] == nullptr) return Undefined{"the condition did not hold"};
        return part(e, 2, scope);
      case Expression::Kind::kAttribute:
        return attribute(part(e, 0, scope), e.name);
      case Expression::Kind::kItem: {
        const Value object = part(e, 0, scope);
        if (!object.is_list()) budget_.touch(object);
        return item(object, part(e, 1, scope));
      }
      case Expression::Kind::kSlice: {
        const Value object = part(e, 0, scope);
        const Value begin = part(e, 1, scope);
        const Value end = part(e, 2, scope);
        return slice(object, begin, end, part(e, 3, scope), budget_);
      }
      case Expression::Kind::kCall:
        return call(e, scope, nullptr);
      case Expression::Kind::kFilter:
        return filter(e, scope);
      case Expression::Kind::kTest:
        return test(e, scope);
    }
    return {};
  }

  Value unary(const Expression& e, const ScopePtr& scope) {
    const Value value = part(e, 0, scope);
    if (e.name == "not") return !value.truthy();
    if (!value.is_number()) {
      throw TemplateError(fmt::format("{} of {} is not defined", e.name, value.type_name()));
    }
    if (e.name == "+") return value.is_bool() ? Value(value.integer()) : value;
    return arithmetic("-", value.is_float() ? Value(-0.0) : Value(int64_t{0}), value, budget_);
  }

  Value compared(const Expression& e, const ScopePtr& scope) {
    Value left = part(e, 0, scope);
    for (size_t i = 0; i < e.names.size(); ++i) {
      Value right = part(e, i + 1, scope);
      const std::string& op = e.names[i];
      budget_.touch(left);
      budget_.touch(right);
      bool holds = false;
      if (op == "==") {
        holds = equal(left, right);
      } else if (op == "!=") {
        holds = !equal(left, right);
      } else if (op == "in") {
        holds = contains(right, left);
      } else if (op == "not in") {
        holds = !contains(right, left);
      } else {
        const int order = compare(left, right);
        holds = op == "<"    ? order < 0
                : op == "<=" ? order <= 0
                : op == ">"  ? order > 0
                             : order >= 0;
      }
      if (!holds) return false;
      left = std::move(right);
    }
    return true;
  }

  Call arguments_of(const Expression& e, std::string_view name, const ScopePtr& scope) {
    Call out{.name = name, .positional = {}, .named = {}, .budget = budget_};
    for (const auto& argument : e.arguments.positional) {
      out.positional.push_back(evaluate(*argument, scope));
    }
    for (const auto& [key, argument] : e.arguments.named) {
      out.named.emplace_back(key, evaluate(*argument, scope));
    }
    return out;
  }

  Value call(const Expression& e, const ScopePtr& scope, const Value* caller) {
    const Value callee = part(e, 0, scope);
    if (callee.is_undefined()) throw TemplateError(callee.undefined().what);
    if (!callee.is_callable()) {
      throw TemplateError(fmt::format("{} cannot be called", callee.type_name()));
    }
    Call arguments = arguments_of(e, callee.callable().name, scope);
    if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
    return callee.callable().call(arguments);
  }

  Value filter(const Expression& e, const ScopePtr& scope) {
    const Value value = part(e, 0, scope);
    Call arguments = arguments_of(e, e.name, scope);
    return apply_filter(e.name, value, arguments);
  }

  Value apply_filter(const std::string& name, const Value& value, Call& arguments) {
    budget_.touch(value);
    if (name == "map") return map(value, arguments);
    if (name == "select" || name == "reject") {
      return select(value, arguments, name == "select", /*by_attribute=*/false);
    }
    if (name == "selectattr" || name == "rejectattr") {
      return select(value, arguments, name == "selectattr", /*by_attribute=*/true);
    }
    const Filter known = find_filter(name);
    if (known == nullptr) throw TemplateError(fmt::format("there is no filter \"{}\"", name));
    return known(value, arguments);
  }

  Value map(const Value& value, Call& arguments) {
    List out{.used = std::make_shared<bool>(false)};
    const Value path = arguments.get(SIZE_MAX, "attribute");
    const Value otherwise = arguments.get(SIZE_MAX, "default", Undefined{"not there"});
    for (const Value& element : elements(value)) {
      budget_.step();
      budget_.take(sizeof(Value));
      if (!path.is_none()) {
        Value found = deep_attribute(element, path);
        out.items.push_back(found.is_undefined() && !otherwise.is_undefined() ? otherwise : found);
        continue;
      }
      const std::string name = to_text(arguments.need(0, "a filter's name"));
      Call inner{.name = name,
                 .positional = {arguments.positional.begin() + 1, arguments.positional.end()},
                 .named = arguments.named,
                 .budget = budget_};
      out.items.push_back(apply_filter(name, element, inner));
    }
    return out;
  }

  Value select(const Value& value, Call& arguments, bool keep, bool by_attribute) {
    List out{.used = std::make_shared<bool>(false)};
    const size_t skip = by_attribute ? 1 : 0;
    for (const Value& element : elements(value)) {
      budget_.step();
      const Value tested =
          by_attribute ? deep_attribute(element, arguments.need(0, "attribute")) : element;
      bool holds = tested.truthy();
      if (arguments.positional.size() > skip) {
        const std::string name = to_text(arguments.positional[skip]);
        Call inner{.name = name,
                   .positional = {arguments.positional.begin() + static_cast<ptrdiff_t>(skip) + 1,
                                  arguments.positional.end()},
                   .named = arguments.named,
                   .budget = budget_};
        holds = apply_test(name, tested, inner);
      }
      if (holds == keep) out.items.push_back(element);
    }
    budget_.take(out.items.size() * sizeof(Value));
    return out;
  }

  Value test(const Expression& e, const ScopePtr& scope) {
    const Value value = part(e, 0, scope);
    Call arguments = arguments_of(e, e.name, scope);
    return apply_test(e.name, value, arguments);
  }

  bool apply_test(const std::string& name, const Value& value, Call& arguments) {
    budget_.touch(value);
    const Test known = find_test(name);
    if (known == nullptr) throw TemplateError(fmt::format("there is no test \"{}\"", name));
    return known(value, arguments);
  }

  const Dict& variables_;
  const Dict& globals_;
  Budget& budget_;
  ScopePtr root_ = std::make_shared<Scope>();
  /// Those that macros were defined in and see; macros are among their names.
  std::vector<ScopePtr> kept_;
  int depth_ = 0;
};

}  // namespace

std::string render(const Body& body, const Dict& variables, const Dict& globals, Budget& budget) {
  return Interpreter(variables, globals, budget).run(body);
}

}  // namespace fourfold::jinja
