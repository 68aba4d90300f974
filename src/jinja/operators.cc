#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "jinja/builtins.h"

namespace fourfold::jinja {
namespace {

[[noreturn]] void refuse(std::string_view op, const Value& a, const Value& b) {
  for (const Value* value : {&a, &b}) {
    if (value->is_undefined()) throw TemplateError(value->undefined().what);
  }
  throw TemplateError(
      fmt::format("{} of {} and {} is not defined", op, a.type_name(), b.type_name()));
}

[[noreturn]] void too_large() { throw TemplateError("a number is too large"); }

Value integers(std::string_view op, int64_t a, int64_t b) {
  int64_t out = 0;
  if (op == "+" || op == "-" || op == "*") {
    const bool overflow = op == "+"   ? __builtin_add_overflow(a, b, &out)
                          : op == "-" ? __builtin_sub_overflow(a, b, &out)
                                      : __builtin_mul_overflow(a, b, &out);
    if (overflow) too_large();
    return out;
  }
  if (op == "**") {
    if (b < 0 && a == 0) throw TemplateError("division by zero");
    if (b < 0) return std::pow(static_cast<double>(a), static_cast<double>(b));
    out = 1;
    for (int64_t i = 0; i < b; ++i) {
      if (out == 0 || a == 1) break;
      if (a == -1) return int64_t{b % 2 == 0 ? 1 : -1};
      if (__builtin_mul_overflow(out, a, &out)) too_large();
    }
    return out;
  }
  if (b == 0) throw TemplateError("division by zero");
  if (op == "/") return static_cast<double>(a) / static_cast<double>(b);
  if (a == INT64_MIN && b == -1) too_large();
  // Python rounds down.
  const int64_t rest = a % b;
  const bool below = rest != 0 && (rest < 0) != (b < 0);
  return op == "//" ? a / b - (below ? 1 : 0) : rest + (below ? b : 0);
}

Value floats(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") return std::pow(a, b);
  if (b == 0) throw TemplateError("division by zero");
  if (op == "/") return a / b;
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  return op == "//" ? std::round((a - rest) / b) : rest;
}

Value repeated(const Value& what, int64_t count, Budget& budget) {
  count = std::max<int64_t>(count, 0);
  if (what.is_string()) {
    std::string out;
    for (int64_t i = 0; i < count && !what.string().empty(); ++i) {
      budget.take(what.string().size());
      out += what.string();
    }
    return out;
  }
  List out{.tuple = what.is_tuple()};
  for (int64_t i = 0; i < count && !what.list().empty(); ++i) {
    budget.take(what.list().size() * sizeof(Value));
    out.items.insert(out.items.end(), what.list().begin(), what.list().end());
  }
  return out;
}

/// Python's index into `size` elements; outside of them a size.
size_t index_of(int64_t index, size_t size) {
  const auto count = static_cast<int64_t>(size);
  if (index < 0) index += count;
  return 0 <= index && index < count ? static_cast<size_t>(index) : size;
}

Undefined missing(const Value& value, std::string_view what) {
  return {fmt::format("{} has no {}", value.type_name(), what)};
}

}  // namespace

int64_t integer_of(const Value& value, std::string_view what) {
  if (!value.is_integer()) {
    throw TemplateError(fmt::format("{} needs an integer, found {}", what, value.type_name()));
  }
  return value.integer();
}

const std::string& string_of(const Value& value, std::string_view what) {
  if (!value.is_string()) {
    throw TemplateError(fmt::format("{} needs a string, found {}", what, value.type_name()));
  }
  return value.string();
}

Value arithmetic(std::string_view op, const Value& a, const Value& b, Budget& budget) {
  if (op == "~") {
    std::string out = to_text(a) + to_text(b);
    budget.take(out.size());
    return out;
  }
  if (a.is_integer() && b.is_integer()) return integers(op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return floats(op, a.number(), b.number());
  if (op == "+" && a.is_string() && b.is_string()) {
    budget.take(a.string().size() + b.string().size());
    return a.string() + b.string();
  }
  if (op == "+" && a.is_list() && b.is_list() && a.type_name() == b.type_name() &&
      !a.is_iterator() && a.list_object().view.empty() && b.list_object().view.empty()) {
    budget.take((a.list().size() + b.list().size()) * sizeof(Value));
    List out{.items = a.list(), .tuple = a.is_tuple()};
    out.items.insert(out.items.end(), b.list().begin(), b.list().end());
    return out;
  }
  if (op == "*" && (a.is_string() || a.is_list()) && b.is_integer()) {
    return repeated(a, b.integer(), budget);
  }
  if (op == "*" && a.is_integer() && (b.is_string() || b.is_list())) {
    return repeated(b, a.integer(), budget);
  }
  refuse(op, a, b);
}

Value attribute(const Value& value, std::string_view name) {
  if (value.is_undefined()) throw TemplateError(value.undefined().what);
  if (value.is_namespace()) {
    const Value* found = value.names().members.named(name);
    return found != nullptr ? *found : Value(missing(value, fmt::format("attribute {}", name)));
  }
  Value method = find_method(value, name);
  if (method.is_callable()) return method;
  if (value.is_dict()) {
    if (const Value* found = value.dict().named(name)) return *found;
  }
  return missing(value, fmt::format("attribute {}", to_repr(std::string(name))));
}

Value item(const Value& value, const Value& key) {
  if (value.is_undefined()) throw TemplateError(value.undefined().what);
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(key)) return *found;
  } else if (value.is_list() && !value.is_iterator() && key.is_integer()) {
    const size_t index = index_of(key.integer(), value.list().size());
    if (index < value.list().size()) return value.list()[index];
  } else if (value.is_string() && key.is_integer()) {
    const auto all = characters(value.string());
    const size_t index = index_of(key.integer(), all.size());
    if (index < all.size()) return std::string(all[index]);
  }
  if (key.is_string() && !value.is_dict()) return attribute(value, key.string());
  if (key.is_string()) {
    Value method = find_method(value, key.string());
    if (method.is_callable()) return method;
  }
  return missing(value, fmt::format("element {}", to_repr(key)));
}

Value deep_attribute(const Value& value, const Value& path) {
  if (!path.is_string()) return item(value, path);
  Value out = value;
  std::string_view rest = path.string();
  while (true) {
    const size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    int64_t index = 0;
    const auto [end, status] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = status == std::errc() && end == part.data() + part.size() && index >= 0;
    out = is_index ? item(out, index) : item(out, std::string(part));
    if (dot == std::string_view::npos) return out;
    rest.remove_prefix(dot + 1);
  }
}

Value slice(const Value& value, const Value& begin, const Value& end, const Value& step,
            Budget& budget) {
  if (value.is_undefined()) throw TemplateError(value.undefined().what);
  if (!value.is_string() && (!value.is_list() || value.is_iterator())) {
    throw TemplateError(fmt::format("{} cannot be cut", value.type_name()));
  }
  std::vector<std::string_view> text;
  if (value.is_string()) text = characters(value.string());
  const auto size = static_cast<int64_t>(value.is_string() ? text.size() : value.list().size());
  budget.take(static_cast<size_t>(size));
  const int64_t by = step.is_none() ? 1 : integer_of(step, "a slice");
  if (by == 0) throw TemplateError("a slice's step is 0");
  const auto bound = [&](const Value& written, int64_t fallback) {
    if (written.is_none()) return fallback;
    int64_t index = integer_of(written, "a slice");
    if (index < 0) index = std::max<int64_t>(index, -size - 1) + size;
    return std::clamp<int64_t>(index, by > 0 ? 0 : -1, by > 0 ? size : size - 1);
  };
  const int64_t first = bound(begin, by > 0 ? 0 : size - 1);
  const int64_t last = bound(end, by > 0 ? size : -1);
  std::string out;
  List list{.tuple = value.is_tuple()};
  for (int64_t i = first; by > 0 ? i < last : i > last;) {
    if (value.is_string()) {
      out += text[static_cast<size_t>(i)];
    } else {
      list.items.push_back(value.list()[static_cast<size_t>(i)]);
    }
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  if (value.is_string()) return out;
  return list;
}

}  // namespace fourfold::jinja
