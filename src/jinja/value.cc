#include "jinja/value.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace fourfold::jinja {
namespace {

/// Python's repr of a float: the shortest digits that give it back.
std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific)
                       .ptr;
  const std::string_view text(buffer.data(), static_cast<size_t>(end - buffer.data()));
  const size_t e = text.find('e');
  int exponent = 0;
  const size_t sign = text[e + 1] == '+' ? 1 : 0;
  std::from_chars(text.data() + e + 1 + sign, text.data() + text.size(), exponent);
  if (exponent < -4 || exponent >= 16) {
    return fmt::format("{}e{}{:02}", text.substr(0, e), exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  const auto fixed =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed)
          .ptr;
  std::string out(buffer.data(), static_cast<size_t>(fixed - buffer.data()));
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

/// Whether repr shows a character as it is.
bool is_printable(std::string_view character) {
  utf8proc_int32_t point = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(character.data()),
                   static_cast<utf8proc_ssize_t>(character.size()), &point);
  if (point < 0) return false;
  if (point == ' ') return true;
  switch (utf8proc_category(point)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

std::string escaped_point(std::string_view character) {
  utf8proc_int32_t point = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(character.data()),
                   static_cast<utf8proc_ssize_t>(character.size()), &point);
  if (point < 0) point = static_cast<unsigned char>(character[0]);
  if (point < 0x100) return fmt::format("\\x{:02x}", point);
  return point < 0x10000 ? fmt::format("\\u{:04x}", point) : fmt::format("\\U{:08x}", point);
}

std::string string_repr(std::string_view text) {
  const bool single = text.find('\'') == std::string_view::npos;
  const char quote = single || text.find('"') != std::string_view::npos ? '\'' : '"';
  std::string out(1, quote);
  for (const std::string_view c : characters(text)) {
    if (c == "\n") {
      out += "\\n";
    } else if (c == "\r") {
      out += "\\r";
    } else if (c == "\t") {
      out += "\\t";
    } else if (c == "\\" || (c.size() == 1 && c[0] == quote)) {
      out += '\\';
      out += c;
    } else if (is_printable(c)) {
      out += c;
    } else {
      out += escaped_point(c);
    }
  }
  return out + quote;
}

void check_depth(int depth) {
  if (depth > kMostNestedValues) throw TemplateError("values are nested too deeply");
}

/// Values share what is inside, so a small one can be a very long text.
void check_size(const std::string& text) {
  if (std::ssize(text) > kMostText) throw TemplateError("a value is too long a text");
}

void append_repr(const Value& value, int depth, std::string& out) {
  check_depth(depth);
  check_size(out);
  if (value.is_string()) {
    out += string_repr(value.string());
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_namespace()) {
    out += "<Namespace ";
    append_repr(Value(value.names().members), depth + 1, out);
    out += '>';
  } else if (value.is_iterator()) {
    throw TemplateError("an iterator cannot be printed: use | list");
  } else if (value.is_list()) {
    const std::string_view view = value.list_object().view;
    if (!view.empty()) (out += view) += '(';
    out += value.is_tuple() ? '(' : '[';
    for (size_t i = 0; i < value.list().size(); ++i) {
      if (i > 0) out += ", ";
      append_repr(value.list()[i], depth + 1, out);
    }
    if (value.is_tuple() && value.list().size() == 1) out += ',';
    out += value.is_tuple() ? ')' : ']';
    if (!view.empty()) out += ')';
  } else if (value.is_dict()) {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : value.dict().items) {
      if (!std::exchange(first, false)) out += ", ";
      append_repr(key, depth + 1, out);
      out += ": ";
      append_repr(item, depth + 1, out);
    }
    out += '}';
  } else {
    out += to_text(value);
  }
}

std::string repr(const Value& value, int depth) {
  std::string out;
  append_repr(value, depth, out);
  return out;
}

std::string json_string(std::string_view text, bool ascii) {
  // As Python's: neither escapes what need not be, but for ASCII.
  try {
    return nlohmann::json(std::string(text)).dump(-1, ' ', ascii);
  } catch (const nlohmann::json::exception&) {
    throw TemplateError("tojson: the text is no UTF-8");
  }
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  std::string write(const Value& value) {
    append(value, 0);
    return std::move(out_);
  }

 private:
  void append(const Value& value, int depth) {
    check_depth(depth);
    check_size(out_);
    if (value.is_none()) {
      out_ += "null";
    } else if (value.is_bool()) {
      out_ += value.integer() != 0 ? "true" : "false";
    } else if (value.is_int()) {
      out_ += std::to_string(value.integer());
    } else if (value.is_float()) {
      out_ += number(value.number());
    } else if (value.is_string()) {
      out_ += json_string(value.string(), style_.ascii);
    } else if (value.is_list() && !value.is_iterator() && value.list_object().view.empty()) {
      append_all(value.list(), "[]", depth, [&](const Value& item) { append(item, depth + 1); });
    } else if (value.is_dict()) {
      append_all(sorted(value.dict().items), "{}", depth, [&](const auto& item) {
        out_ += json_string(key_text(item.first), style_.ascii) + style_.key_separator;
        append(item.second, depth + 1);
      });
    } else {
      throw TemplateError(
          fmt::format("tojson: an object of type {} is no JSON", value.type_name()));
    }
  }

  using Items = std::vector<std::pair<Value, Value>>;
  Items sorted(Items items) const {
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(),
                       [](const auto& a, const auto& b) { return compare(a.first, b.first) < 0; });
    }
    return items;
  }

  std::string key_text(const Value& key) const {
    if (key.is_string()) return key.string();
    if (key.is_list()) throw TemplateError("tojson: a tuple is no key");
    return JsonWriter(style_).write(key);
  }

  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return float_text(value);
  }

  template <typename Items, typename Append>
  void append_all(const Items& items, const char* brackets, int depth, const Append& append_one) {
    const auto new_line = [&](int level) {
      if (style_.indent < 0) return;
      out_ += '\n';
      out_.append(static_cast<size_t>(style_.indent) * static_cast<size_t>(level), ' ');
    };
    out_ += brackets[0];
    bool first = true;
    for (const auto& item : items) {
      if (!std::exchange(first, false)) out_ += style_.item_separator;
      new_line(depth + 1);
      append_one(item);
    }
    if (!first) new_line(depth);
    out_ += brackets[1];
  }

  const JsonStyle& style_;
  std::string out_;
};

/// Values that a comparison has looked at: they share what is inside, so two small ones can take
/// very long.
void count_compared(int64_t& seen) {
  constexpr int64_t kMostCompared = 1'000'000;
  if (++seen > kMostCompared) throw TemplateError("values are too large to be compared");
}

bool equal(const Value& a, const Value& b, int64_t& seen);

bool equal_dicts(const Dict& a, const Dict& b, int64_t& seen) {
  return a.items.size() == b.items.size() &&
         std::all_of(a.items.begin(), a.items.end(), [&](const auto& item) {
           const Value* other = b.find(item.first);
           return other != nullptr && equal(item.second, *other, seen);
         });
}

bool equal(const Value& a, const Value& b, int64_t& seen) {
  count_compared(seen);
  if (a.is_number() && b.is_number()) {
    return a.is_integer() && b.is_integer() ? a.integer() == b.integer() : a.number() == b.number();
  }
  if (a.is_string() && b.is_string()) return a.string() == b.string();
  if (a.is_list() && b.is_list()) {
    return a.is_tuple() == b.is_tuple() &&
           std::equal(a.list().begin(), a.list().end(), b.list().begin(), b.list().end(),
                      [&](const Value& x, const Value& y) { return equal(x, y, seen); });
  }
  if (a.is_dict() && b.is_dict()) return equal_dicts(a.dict(), b.dict(), seen);
  if (a.is_namespace() && b.is_namespace()) return &a.names() == &b.names();
  if (a.is_callable() && b.is_callable()) return &a.callable() == &b.callable();
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

int compare(const Value& a, const Value& b, int64_t& seen) {
  count_compared(seen);
  const auto sign = [](const auto& x, const auto& y) { return x < y ? -1 : x > y ? 1 : 0; };
  if (a.is_integer() && b.is_integer()) return sign(a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return sign(a.number(), b.number());
  // UTF-8 orders as code points do.
  if (a.is_string() && b.is_string()) return sign(a.string(), b.string());
  if (a.is_list() && b.is_list() && a.is_tuple() == b.is_tuple()) {
    for (size_t i = 0; i < std::min(a.list().size(), b.list().size()); ++i) {
      if (!equal(a.list()[i], b.list()[i], seen)) return compare(a.list()[i], b.list()[i], seen);
    }
    return sign(a.list().size(), b.list().size());
  }
  throw TemplateError(fmt::format("{} and {} have no order", a.type_name(), b.type_name()));
}

}  // namespace

const Value* Dict::find(const Value& key) const {
  for (const auto& [known, value] : items) {
    if (equal(known, key)) return &value;
  }
  return nullptr;
}

const Value* Dict::named(std::string_view key) const {
  for (const auto& [known, value] : items) {
    if (known.is_string() && known.string() == key) return &value;
  }
  return nullptr;
}

void Dict::set(Value key, Value value) {
  for (auto& [known, old] : items) {
    if (equal(known, key)) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(std::move(key), std::move(value));
}

Value::Value(List value) {
  for (const Value& item : value.items) value.depth = std::max(value.depth, item.depth() + 1);
  check_depth(value.depth);
  data_ = std::make_shared<const List>(std::move(value));
}

Value::Value(Dict value) {
  for (const auto& [key, item] : value.items) {
    value.depth = std::max({value.depth, key.depth() + 1, item.depth() + 1});
  }
  check_depth(value.depth);
  data_ = std::make_shared<const Dict>(std::move(value));
}

int Value::depth() const {
  if (is_list()) return list_object().depth;
  return is_dict() ? dict().depth : 0;
}

bool Value::truthy() const {
  if (is_none() || is_undefined()) return false;
  if (is_number()) return number() != 0;
  if (is_string()) return !string().empty();
  if (is_iterator()) return true;
  if (is_list()) return !list().empty();
  if (is_dict()) return !dict().items.empty();
  return true;
}

std::string_view Value::type_name() const {
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (is_undefined()) return "Undefined";
  if (is_iterator()) return "iterator";
  if (is_list()) return is_tuple() ? "tuple" : "list";
  if (is_dict()) return "dict";
  return is_namespace() ? "Namespace" : "function";
}

Budget::~Budget() {
  // All are still there, so that a long chain of them is not freed from within each other.
  for (const Value::NamespacePtr& names : namespaces_) names->members.items.clear();
}

Value::NamespacePtr Budget::own(Namespace names) {
  take(sizeof(Namespace));
  return namespaces_.emplace_back(std::make_shared<Namespace>(std::move(names)));
}

void Budget::touch(const Value& value) {
  constexpr int64_t kBytesOfStep = 64;
  constexpr int64_t kValuesOfStep = 4;
  if (value.is_string()) step(std::ssize(value.string()) / kBytesOfStep);
  if (value.is_list()) step(std::ssize(value.list()) / kValuesOfStep);
  if (value.is_dict()) step(std::ssize(value.dict().items) / kValuesOfStep);
}

Value Call::get(size_t index, std::string_view key, Value fallback) const {
  if (index < positional.size()) return positional[index];
  for (const auto& [known, value] : named) {
    if (known == key) return value;
  }
  return fallback;
}

void Call::expect(size_t most, std::initializer_list<std::string_view> keys) const {
  if (positional.size() > most) {
    throw TemplateError(
        fmt::format("{} takes at most {} arguments, {} given", name, most, positional.size()));
  }
  for (const auto& [known, value] : named) {
    if (std::find(keys.begin(), keys.end(), known) == keys.end()) {
      throw TemplateError(fmt::format("{} takes no argument \"{}\"", name, known));
    }
  }
}

Value Call::need(size_t index, std::string_view key) const {
  const bool given = index < positional.size() ||
                     std::any_of(named.begin(), named.end(),
                                 [&](const auto& argument) { return argument.first == key; });
  if (!given) throw TemplateError(fmt::format("{} needs an argument \"{}\"", name, key));
  return get(index, key);
}

std::string to_text(const Value& value) {
  if (value.is_string()) return value.string();
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (value.is_bool()) return value.integer() != 0 ? "True" : "False";
  if (value.is_int()) return std::to_string(value.integer());
  if (value.is_float()) return float_text(value.number());
  if (value.is_callable()) return fmt::format("<function {}>", value.callable().name);
  return repr(value, 0);
}

std::string to_repr(const Value& value) { return repr(value, 0); }

bool equal(const Value& a, const Value& b) {
  int64_t seen = 0;
  return equal(a, b, seen);
}

int compare(const Value& a, const Value& b) {
  int64_t seen = 0;
  return compare(a, b, seen);
}

void check_key(const Value& key) {
  if (key.is_dict() || (key.is_list() && !key.is_tuple())) {
    throw TemplateError(fmt::format("a {} is no key", key.type_name()));
  }
}

bool contains(const Value& hay, const Value& needle) {
  if (hay.is_string()) {
    if (!needle.is_string()) {
      throw TemplateError(
          fmt::format("\"in\" of a string needs a string, found {}", needle.type_name()));
    }
    return hay.string().find(needle.string()) != std::string::npos;
  }
  if (hay.is_dict()) {
    check_key(needle);
    return hay.dict().find(needle) != nullptr;
  }
  const std::vector<Value> all = elements(hay);
  return std::any_of(all.begin(), all.end(), [&](const Value& v) { return equal(v, needle); });
}

std::vector<Value> elements(const Value& value) {
  if (value.is_iterator() && std::exchange(*value.list_object().used, true)) return {};
  if (value.is_list()) return value.list();
  if (value.is_undefined()) return {};
  std::vector<Value> out;
  if (value.is_dict()) {
    for (const auto& [key, item] : value.dict().items) out.push_back(key);
    return out;
  }
  if (value.is_string()) {
    for (const std::string_view c : characters(value.string())) out.emplace_back(std::string(c));
    return out;
  }
  throw TemplateError(fmt::format("{} cannot be walked over", value.type_name()));
}

std::string to_json(const Value& value, const JsonStyle& style) {
  return JsonWriter(style).write(value);
}

Value from_json(const nlohmann::ordered_json& json) {
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean:
      return json.get<bool>();
    case nlohmann::ordered_json::value_t::number_integer:
      return json.get<int64_t>();
    case nlohmann::ordered_json::value_t::number_unsigned: {
      const auto value = json.get<uint64_t>();
      if (value <= static_cast<uint64_t>(INT64_MAX)) return static_cast<int64_t>(value);
      return static_cast<double>(value);
    }
    case nlohmann::ordered_json::value_t::number_float:
      return json.get<double>();
    case nlohmann::ordered_json::value_t::string:
      return json.get<std::string>();
    case nlohmann::ordered_json::value_t::array: {
      List list;
      for (const auto& item : json) list.items.push_back(from_json(item));
      return list;
    }
    case nlohmann::ordered_json::value_t::object: {
      Dict dict;
      for (const auto& [key, item] : json.items()) dict.items.emplace_back(key, from_json(item));
      return dict;
    }
    default:
      return {};
  }
}

}  // namespace fourfold::jinja
