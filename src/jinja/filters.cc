// Filters and tests that need only their value, and what every template can name.

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>
#include <map>

#include "jinja/builtins.h"

namespace fourfold::jinja {
namespace {

[[noreturn]] void refuse_undefined(const Value& value) {
  throw TemplateError(value.undefined().what);
}

Value iterator(std::vector<Value> items) {
  return List{.items = std::move(items), .used = std::make_shared<bool>(false)};
}

Value length(const Value& value, Call& call) {
  call.expect(0);
  if (value.is_string()) return std::ssize(characters(value.string()));
  if (value.is_dict()) return std::ssize(value.dict().items);
  if (value.is_list() && !value.is_iterator()) return std::ssize(value.list());
  if (value.is_undefined()) return int64_t{0};
  throw TemplateError(fmt::format("{} has no length", value.type_name()));
}

Value fallback(const Value& value, Call& call) {
  call.expect(2, {"default_value", "boolean"});
  const bool takes = value.is_undefined() || (call.get(1, "boolean").truthy() && !value.truthy());
  return takes ? call.get(0, "default_value", "") : value;
}

Value join(const Value& value, Call& call) {
  call.expect(2, {"d", "attribute"});
  const std::string by = to_text(call.get(0, "d", ""));
  const Value key = call.get(1, "attribute");
  std::string out;
  bool first = true;
  for (const Value& part : elements(value)) {
    const std::string text = to_text(key.is_none() ? part : deep_attribute(part, key));
    call.budget.take(by.size() + text.size());
    if (!first) out += by;
    first = false;
    out += text;
  }
  return out;
}

Value trim(const Value& value, Call& call) {
  call.expect(1, {"chars"});
  const Value set = call.get(0, "chars");
  const std::string text = to_text(value);
  if (set.is_none()) return std::string(strip(text, "", true, true));
  const std::string& characters_to_go = string_of(set, "trim");
  if (characters_to_go.empty()) return text;
  return std::string(strip(text, characters_to_go, true, true));
}

Value tojson(const Value& value, Call& call) {
  call.expect(4, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style{.ascii = call.get(0, "ensure_ascii").truthy(),
                  .sort_keys = call.get(3, "sort_keys").truthy()};
  if (const Value indent = call.get(1, "indent"); !indent.is_none()) {
    style.indent = static_cast<int>(std::clamp<int64_t>(integer_of(indent, "tojson"), 0, 64));
    style.item_separator = ",";
  }
  if (const Value separators = call.get(2, "separators"); !separators.is_none()) {
    if (!separators.is_list() || separators.list().size() != 2) {
      throw TemplateError("tojson: separators are two strings");
    }
    style.item_separator = string_of(separators.list()[0], "tojson");
    style.key_separator = string_of(separators.list()[1], "tojson");
  }
  std::string out = to_json(value, style);
  call.budget.take(out.size());
  return out;
}

Value first_of(const Value& value, Call& call) {
  call.expect(0);
  const std::vector<Value> all = elements(value);
  return all.empty() ? Value(Undefined{"the first element of nothing"}) : all.front();
}

Value last_of(const Value& value, Call& call) {
  call.expect(0);
  if (value.is_iterator()) throw TemplateError("last needs a list, found an iterator");
  const std::vector<Value> all = elements(value);
  return all.empty() ? Value(Undefined{"the last element of nothing"}) : all.back();
}

/// A number's digits as Python takes them: with _ between two.
std::string without_underscores(std::string_view text) {
  std::string out;
  const auto is_digit = [&](size_t i) {
    return i < text.size() && '0' <= text[i] && text[i] <= '9';
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_' || i == 0 || !is_digit(i - 1) || !is_digit(i + 1)) out += text[i];
  }
  return out;
}

Value to_integer(const Value& value, Call& call) {
  call.expect(2, {"default", "base"});
  const Value otherwise = call.get(0, "default", int64_t{0});
  if (value.is_undefined()) refuse_undefined(value);
  if (value.is_integer()) return value.integer();
  if (value.is_float()) {
    const double number = value.number();
    if (std::isnan(number)) return otherwise;
    if (std::abs(number) >= 9.2e18) throw TemplateError("a number is too large");
    return static_cast<int64_t>(number);
  }
  if (!value.is_string()) return otherwise;
  const std::string text = without_underscores(strip(value.string(), "", true, true));
  std::string_view digits = text;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  const int64_t base = integer_of(call.get(1, "base", int64_t{10}), "int");
  if (base < 2 || base > 36) throw TemplateError("int: the base is 2 to 36");
  const std::string prefix = lower(digits.substr(0, 2));
  if ((base == 16 && prefix == "0x") || (base == 8 && prefix == "0o") ||
      (base == 2 && prefix == "0b")) {
    digits.remove_prefix(2);
  }
  int64_t out = 0;
  const auto [end, status] =
      std::from_chars(digits.data(), digits.data() + digits.size(), out, static_cast<int>(base));
  if (status == std::errc() && end == digits.data() + digits.size()) return out;
  double number = 0;
  const auto [stop, parsed] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool whole = parsed == std::errc() && stop == digits.data() + digits.size();
  return whole && std::abs(number) < 9.2e18 ? Value(static_cast<int64_t>(number)) : otherwise;
}

Value to_float(const Value& value, Call& call) {
  call.expect(1, {"default"});
  if (value.is_undefined()) refuse_undefined(value);
  if (value.is_number()) return value.number();
  const Value otherwise = call.get(0, "default", 0.0);
  if (!value.is_string()) return otherwise;
  std::string text = without_underscores(strip(value.string(), "", true, true));
  if (text.starts_with('+')) text.erase(0, 1);
  double out = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), out);
  return status == std::errc() && end == text.data() + text.size() ? Value(out) : otherwise;
}

Value rounded(const Value& value, Call& call) {
  call.expect(2, {"precision", "method"});
  if (!value.is_number()) throw TemplateError("round needs a number");
  const int64_t precision = integer_of(call.get(0, "precision", int64_t{0}), "round");
  const std::string method = to_text(call.get(1, "method", "common"));
  if (std::abs(precision) > 300) throw TemplateError("round: the precision is too large");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.number() * scale;
  if (method == "ceil") return std::ceil(scaled) / scale;
  if (method == "floor") return std::floor(scaled) / scale;
  if (method != "common") throw TemplateError("round: the method is common, ceil or floor");
  if (value.is_integer() && precision >= 0) return value.integer();
  if (value.is_integer()) return static_cast<int64_t>(std::nearbyint(scaled) / scale);
  if (precision < 0 || !std::isfinite(value.number())) return std::nearbyint(scaled) / scale;
  // As Python: of the exact value, half to even.
  const std::string text = fmt::format("{:.{}f}", value.number(), precision);
  double out = 0;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}

Value indented(const Value& value, Call& call) {
  call.expect(3, {"width", "first", "blank"});
  const Value width = call.get(0, "width", int64_t{4});
  const std::string by = width.is_string() ? width.string()
                                           : std::string(static_cast<size_t>(std::clamp<int64_t>(
                                                             integer_of(width, "indent"), 0, 1000)),
                                                         ' ');
  const bool blank = call.get(2, "blank").truthy();
  if (value.is_undefined()) refuse_undefined(value);
  const std::string text = string_of(value, "indent");
  std::string out = call.get(1, "first").truthy() ? by : "";
  size_t at = 0;
  while (true) {
    const size_t end = text.find('\n', at);
    const bool is_last = end == std::string::npos;
    out.append(text, at, is_last ? std::string::npos : end - at);
    if (is_last) return out;
    out += '\n';
    at = end + 1;
    const bool empty = at == text.size() || text[at] == '\n';
    if (blank || !empty) out += by;
    call.budget.take(by.size());
  }
}

/// Orders by an attribute, for sort and unique; text regardless of case unless asked.
Value sort_key(const Value& value, const Value& key, bool case_sensitive) {
  Value out = key.is_none() ? value : deep_attribute(value, key);
  if (!case_sensitive && out.is_string()) return lower(out.string());
  return out;
}

Value sorted(const Value& value, Call& call) {
  call.expect(3, {"reverse", "case_sensitive", "attribute"});
  const Value key = call.get(2, "attribute");
  const bool sensitive = call.get(1, "case_sensitive").truthy();
  List out{elements(value)};
  call.budget.step(std::ssize(out.items));
  const auto less = [&](const Value& a, const Value& b) {
    return compare(sort_key(a, key, sensitive), sort_key(b, key, sensitive)) < 0;
  };
  if (call.get(0, "reverse").truthy()) {
    std::stable_sort(out.items.begin(), out.items.end(),
                     [&](const Value& a, const Value& b) { return less(b, a); });
  } else {
    std::stable_sort(out.items.begin(), out.items.end(), less);
  }
  return out;
}

Value sorted_items(const Value& value, Call& call) {
  call.expect(3, {"case_sensitive", "by", "reverse"});
  if (!value.is_dict()) throw TemplateError("dictsort needs a dict");
  const bool sensitive = call.get(0, "case_sensitive").truthy();
  const size_t by = to_text(call.get(1, "by", "key")) == "value" ? 1 : 0;
  Call none{.name = "items", .positional = {}, .named = {}, .budget = call.budget};
  List out{find_method(value, "items").callable().call(none).list()};
  const auto less = [&](const Value& a, const Value& b) {
    return compare(sort_key(a.list()[by], {}, sensitive), sort_key(b.list()[by], {}, sensitive)) <
           0;
  };
  std::stable_sort(out.items.begin(), out.items.end(), less);
  if (call.get(2, "reverse").truthy()) std::reverse(out.items.begin(), out.items.end());
  return out;
}

Value unique(const Value& value, Call& call) {
  call.expect(2, {"case_sensitive", "attribute"});
  const bool sensitive = call.get(0, "case_sensitive").truthy();
  List out;
  std::vector<Value> seen;
  for (const Value& part : elements(value)) {
    const Value key = sort_key(part, call.get(1, "attribute"), sensitive);
    call.budget.step(std::ssize(seen));
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& v) { return equal(v, key); })) {
      continue;
    }
    seen.push_back(key);
    out.items.push_back(part);
  }
  return iterator(std::move(out.items));
}

Value reversed(const Value& value, Call& call) {
  call.expect(0);
  std::vector<Value> all = elements(value);
  std::reverse(all.begin(), all.end());
  if (!value.is_string()) return iterator(std::move(all));
  std::string out;
  for (const Value& part : all) out += part.string();
  return out;
}

Value extreme(const Value& value, Call& call, int sign) {
  call.expect(2, {"case_sensitive", "attribute"});
  const Value key = call.get(1, "attribute");
  const bool sensitive = call.get(0, "case_sensitive").truthy();
  const std::vector<Value> all = elements(value);
  if (all.empty()) return Undefined{"the extreme of nothing"};
  const Value* best = &all.front();
  for (const Value& part : all) {
    if (sign * compare(sort_key(part, key, sensitive), sort_key(*best, key, sensitive)) > 0) {
      best = &part;
    }
  }
  return *best;
}

Value sum(const Value& value, Call& call) {
  call.expect(2, {"attribute", "start"});
  const Value key = call.get(0, "attribute");
  Value out = call.get(1, "start", int64_t{0});
  for (const Value& part : elements(value)) {
    out = arithmetic("+", out, key.is_none() ? part : deep_attribute(part, key), call.budget);
  }
  return out;
}

Value escaped(const Value& value, Call& call) {
  std::string out;
  for (const char c : to_text(value)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  call.budget.take(out.size());
  return out;
}

/// A filter that is a method of strings.
template <const char* kName>
Value by_method(const Value& value, Call& call) {
  return find_method(to_text(value), kName).callable().call(call);
}
constexpr char kUpper[] = "upper";
constexpr char kLower[] = "lower";
constexpr char kCapitalize[] = "capitalize";

Value replace(const Value& value, Call& call) {
  call.expect(3, {"old", "new", "count"});
  Call texts{.name = "replace",
             .positional = {to_text(call.need(0, "old")), to_text(call.need(1, "new"))},
             .named = {},
             .budget = call.budget};
  if (const Value count = call.get(2, "count"); !count.is_none()) texts.positional.push_back(count);
  return find_method(to_text(value), "replace").callable().call(texts);
}

/// Jinja's own: words begin behind white space and opening brackets only.
Value title(const Value& value, Call& call) {
  const std::string text = to_text(value);
  call.budget.take(text.size());
  std::string out;
  bool begins = true;
  for (const std::string_view c : characters(text)) {
    const bool separates = is_space(c) || c == "-" || c == "(" || c == "{" || c == "[" || c == "<";
    out += begins ? upper(c) : lower(c);
    begins = separates;
  }
  return out;
}

Value items_of(const Value& value, Call& call) {
  if (value.is_undefined()) return List{};
  if (!value.is_dict()) throw TemplateError("items needs a dict");
  return find_method(value, "items").callable().call(call);
}

Value absolute(const Value& value, Call& /*call*/) {
  if (value.is_integer()) return std::abs(value.integer());
  if (value.is_float()) return std::abs(value.number());
  throw TemplateError("abs needs a number");
}

const std::map<std::string_view, Filter>& filters() {
  static const std::map<std::string_view, Filter> kFilters = {
      {"abs", absolute},
      {"capitalize", by_method<kCapitalize>},
      {"count", length},
      {"d", fallback},
      {"default", fallback},
      {"dictsort", sorted_items},
      {"e", escaped},
      {"escape", escaped},
      {"first", first_of},
      {"float", to_float},
      {"indent", indented},
      {"int", to_integer},
      {"items", items_of},
      {"join", join},
      {"last", last_of},
      {"length", length},
      {"list",
       [](const Value& v, Call& c) {
         c.expect(0);
         return Value(List{elements(v)});
       }},
      {"lower", by_method<kLower>},
      {"max", [](const Value& v, Call& c) { return extreme(v, c, 1); }},
      {"min", [](const Value& v, Call& c) { return extreme(v, c, -1); }},
      {"replace", replace},
      {"reverse", reversed},
      {"round", rounded},
      {"safe", [](const Value& v, Call& /*c*/) { return Value(to_text(v)); }},
      {"sort", sorted},
      {"string", [](const Value& v, Call& /*c*/) { return Value(to_text(v)); }},
      {"sum", sum},
      {"title", title},
      {"tojson", tojson},
      {"trim", trim},
      {"unique", unique},
      {"upper", by_method<kUpper>},
  };
  return kFilters;
}

bool holds(const Value& value, Call& call, std::initializer_list<int> signs) {
  const int order = compare(value, call.need(0, "other"));
  return std::find(signs.begin(), signs.end(), order) != signs.end();
}

bool same(const Value& value, Call& call) { return equal(value, call.need(0, "other")); }
bool greater(const Value& v, Call& c) { return holds(v, c, {1}); }
bool at_least(const Value& v, Call& c) { return holds(v, c, {0, 1}); }
bool less(const Value& v, Call& c) { return holds(v, c, {-1}); }
bool at_most(const Value& v, Call& c) { return holds(v, c, {-1, 0}); }

double modulo(const Value& value, const Value& by, Budget& budget) {
  if (!value.is_number() || !by.is_number()) throw TemplateError("the test needs a number");
  return arithmetic("%", value, by, budget).number();
}

const std::map<std::string_view, Test>& tests() {
  static const std::map<std::string_view, Test> kTests = {
      {"defined", [](const Value& v, Call& /*c*/) { return !v.is_undefined(); }},
      {"undefined", [](const Value& v, Call& /*c*/) { return v.is_undefined(); }},
      {"none", [](const Value& v, Call& /*c*/) { return v.is_none(); }},
      {"string", [](const Value& v, Call& /*c*/) { return v.is_string(); }},
      {"number", [](const Value& v, Call& /*c*/) { return v.is_number(); }},
      {"integer", [](const Value& v, Call& /*c*/) { return v.is_int(); }},
      {"float", [](const Value& v, Call& /*c*/) { return v.is_float(); }},
      {"boolean", [](const Value& v, Call& /*c*/) { return v.is_bool(); }},
      {"true", [](const Value& v, Call& /*c*/) { return v.is_bool() && v.truthy(); }},
      {"false", [](const Value& v, Call& /*c*/) { return v.is_bool() && !v.truthy(); }},
      {"mapping", [](const Value& v, Call& /*c*/) { return v.is_dict(); }},
      {"sequence",
       [](const Value& v, Call& /*c*/) {
         return v.is_string() || (v.is_list() && !v.is_iterator()) || v.is_dict() ||
                v.is_undefined();
       }},
      {"iterable",
       [](const Value& v, Call& /*c*/) {
         return v.is_string() || v.is_list() || v.is_dict() || v.is_undefined();
       }},
      {"callable", [](const Value& v, Call& /*c*/) { return v.is_callable(); }},
      {"odd", [](const Value& v, Call& c) { return modulo(v, int64_t{2}, c.budget) == 1; }},
      {"even", [](const Value& v, Call& c) { return modulo(v, int64_t{2}, c.budget) == 0; }},
      {"divisibleby",
       [](const Value& v, Call& c) { return modulo(v, c.need(0, "num"), c.budget) == 0; }},
      {"in", [](const Value& v, Call& c) { return contains(c.need(0, "seq"), v); }},
      {"sameas",
       [](const Value& v, Call& c) {
         const Value other = c.need(0, "other");
         return v.type_name() == other.type_name() && equal(v, other);
       }},
      {"lower",
       [](const Value& v, Call& c) {
         return find_method(to_text(v), "islower").callable().call(c).truthy();
       }},
      {"upper",
       [](const Value& v, Call& c) {
         return find_method(to_text(v), "isupper").callable().call(c).truthy();
       }},
      {"eq", same},
      {"equalto", same},
      {"==", same},
      {"ne", [](const Value& v, Call& c) { return !same(v, c); }},
      {"!=", [](const Value& v, Call& c) { return !same(v, c); }},
      {">", greater},
      {">=", at_least},
      {"<", less},
      {"<=", at_most},
      {"gt", greater},
      {"greaterthan", greater},
      {"ge", at_least},
      {"lt", less},
      {"lessthan", less},
      {"le", at_most},
  };
  return kTests;
}

Value range(Call& call) {
  call.expect(3);
  const int64_t first = integer_of(call.need(0, "start"), "range");
  const bool both = call.positional.size() > 1;
  const int64_t begin = both ? first : 0;
  const int64_t end = both ? integer_of(call.positional[1], "range") : first;
  const int64_t step = integer_of(call.get(2, "", int64_t{1}), "range");
  if (step == 0) throw TemplateError("range: the step is 0");
  constexpr int64_t kMostInRange = 100'000;  // as in jinja2's sandbox
  List out;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    call.budget.step();
    call.budget.take(sizeof(Value));
    if (std::ssize(out.items) == kMostInRange) throw TemplateError("the range is too long");
    out.items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return out;
}

Dict named_values(Call& call) {
  Dict out;
  if (call.positional.size() > 1) {
    throw TemplateError(fmt::format("{} takes at most one positional argument", call.name));
  }
  for (const Value& from : call.positional) {
    if (from.is_dict()) {
      for (const auto& [key, value] : from.dict().items) out.set(key, value);
      continue;
    }
    for (const Value& pair : elements(from)) {
      const std::vector<Value> parts = elements(pair);
      if (parts.size() != 2) throw TemplateError(fmt::format("{} needs pairs", call.name));
      check_key(parts[0]);
      out.set(parts[0], parts[1]);
    }
  }
  for (const auto& [key, value] : call.named) out.set(key, value);
  return out;
}

}  // namespace

Filter find_filter(std::string_view name) {
  const auto found = filters().find(name);
  return found == filters().end() ? nullptr : found->second;
}

Test find_test(std::string_view name) {
  const auto found = tests().find(name);
  return found == tests().end() ? nullptr : found->second;
}

Dict globals(int64_t now_unix_s) {
  Dict out;
  const auto add = [&out](const char* name, std::function<Value(Call&)> call) {
    out.items.emplace_back(name, Callable{name, std::move(call)});
  };
  add("range", range);
  add("dict", [](Call& call) { return Value(named_values(call)); });
  add("namespace",
      [](Call& call) { return Value(call.budget.own({.members = named_values(call)})); });
  add("raise_exception",
      [](Call& call) -> Value { throw TemplateError(to_text(call.need(0, "message"))); });
  add("strftime_now", [now_unix_s](Call& call) {
    const std::string& written = string_of(call.need(0, "format"), call.name);
    if (written.size() > 256) throw TemplateError("strftime_now: the format is too long");
    // Python's now() has no zone, and its microseconds are not C's to print.
    std::string format;
    for (size_t i = 0; i < written.size(); ++i) {
      const char next = written[i] == '%' && i + 1 < written.size() ? written[i + 1] : '\0';
      if (next == 'z' || next == 'Z' || next == 'f') {
        format += next == 'f' ? "000000" : "";
        ++i;
      } else {
        format += written[i];
        if (next == '%') format += written[++i];
      }
    }
    const auto now = static_cast<std::time_t>(now_unix_s);
    std::tm parts{};
    localtime_r(&now, &parts);
    std::string buffer(4096, '\0');
    buffer.resize(std::strftime(buffer.data(), buffer.size(), format.c_str(), &parts));
    return Value(buffer);
  });
  add("joiner", [](Call& call) {
    call.expect(1, {"sep"});
    const std::string separator = to_text(call.get(0, "sep", ", "));
    auto used = std::make_shared<bool>(false);
    return Value(Callable{"joiner", [separator, used](Call& /*call*/) {
                            return Value(std::exchange(*used, true) ? separator : "");
                          }});
  });
  return out;
}

}  // namespace fourfold::jinja
