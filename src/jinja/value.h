#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace fourfold::jinja {

/// What went wrong while a template was parsed or rendered. Stays in this room: Template turns it
/// into a Result.
struct TemplateError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Value;
struct Call;

struct List {
  std::vector<Value> items;
  bool tuple = false;  ///< printed with parentheses
  /// Not null: what map, select and the like give, a Python iterator. It is true, has no length and
  /// no index, and can be walked over once: then this is set.
  std::shared_ptr<bool> used = nullptr;
  std::string_view view = {};  ///< "dict_items" and the like, in front of what is printed
  int depth = 1;               ///< of lists and dicts in each other; set when a Value is made
};
/// Keys in the order in which they were added.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  int depth = 1;

  const Value* find(const Value& key) const;
  const Value* named(std::string_view key) const;
  void set(Value key, Value value);
};
/// What namespace() makes: the one thing that a template can change.
struct Namespace {
  Dict members;
  bool fixed = false;  ///< the loop variable: cannot be set
};
struct Callable {
  std::string name;
  std::function<Value(Call&)> call;
};
/// A name, key or attribute that is not there; `what` says so.
struct Undefined {
  std::string what;
};

/// A Python value as a template sees it. Copies share what is inside, which never changes, but for
/// a Namespace.
class Value {
 public:
  using ListPtr = std::shared_ptr<const List>;
  using DictPtr = std::shared_ptr<const Dict>;
  using NamespacePtr = std::shared_ptr<Namespace>;
  using CallablePtr = std::shared_ptr<const Callable>;

  Value() : data_(nullptr) {}             ///< None
  Value(bool value) : data_(value) {}     // NOLINT
  Value(int64_t value) : data_(value) {}  // NOLINT
  Value(double value) : data_(value) {}   // NOLINT
  Value(std::string value)
      : data_(std::make_shared<const std::string>(std::move(value))) {}                   // NOLINT
  Value(const char* value) : Value(std::string(value)) {}                                 // NOLINT
  Value(Undefined value) : data_(std::make_shared<const Undefined>(std::move(value))) {}  // NOLINT
  Value(NamespacePtr value) : data_(std::move(value)) {}                                  // NOLINT
  Value(Callable value) : data_(std::make_shared<const Callable>(std::move(value))) {}    // NOLINT
  Value(List value);                                                                      // NOLINT
  Value(Dict value);                                                                      // NOLINT

  bool is_none() const { return std::holds_alternative<std::nullptr_t>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_integer() const { return is_bool() || is_int(); }
  bool is_string() const { return std::holds_alternative<StringPtr>(data_); }
  bool is_undefined() const { return std::holds_alternative<UndefinedPtr>(data_); }
  bool is_list() const { return std::holds_alternative<ListPtr>(data_); }
  bool is_dict() const { return std::holds_alternative<DictPtr>(data_); }
  bool is_namespace() const { return std::holds_alternative<NamespacePtr>(data_); }
  bool is_callable() const { return std::holds_alternative<CallablePtr>(data_); }

  // Of the kind that it is, as asked before.
  int64_t integer() const { return is_bool() ? std::get<bool>(data_) : std::get<int64_t>(data_); }
  double number() const { return is_float() ? std::get<double>(data_) : double(integer()); }
  const std::string& string() const { return *std::get<StringPtr>(data_); }
  const std::vector<Value>& list() const { return std::get<ListPtr>(data_)->items; }
  bool is_tuple() const { return is_list() && std::get<ListPtr>(data_)->tuple; }
  bool is_iterator() const { return is_list() && std::get<ListPtr>(data_)->used != nullptr; }
  const List& list_object() const { return *std::get<ListPtr>(data_); }
  const Dict& dict() const { return *std::get<DictPtr>(data_); }
  Namespace& names() const { return *std::get<NamespacePtr>(data_); }
  const Callable& callable() const { return *std::get<CallablePtr>(data_); }
  const Undefined& undefined() const { return *std::get<UndefinedPtr>(data_); }

  bool truthy() const;
  /// 0 of what holds no values.
  int depth() const;
  /// "str", "list", … as Python names it.
  std::string_view type_name() const;

 private:
  using StringPtr = std::shared_ptr<const std::string>;
  using UndefinedPtr = std::shared_ptr<const Undefined>;
  std::variant<std::nullptr_t, bool, int64_t, double, StringPtr, UndefinedPtr, ListPtr, DictPtr,
               NamespacePtr, CallablePtr>
      data_;
};

/// Arguments of a call, and what they may cost.
struct Call {
  std::string_view name;  ///< of what is called
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  class Budget& budget;

  /// Argument `index`, or the one of that name, or `fallback`. The names that a callable takes are
  /// checked by expect().
  Value get(size_t index, std::string_view key, Value fallback = Value()) const;
  /// Errors: more than `most` positional arguments, or a named one that is not among `keys`.
  void expect(size_t most, std::initializer_list<std::string_view> keys = {}) const;
  /// A positional or named argument that has to be there.
  Value need(size_t index, std::string_view key) const;
};

/// Bounds what a rendering may cost.
class Budget {
 public:
  Budget(int64_t steps, int64_t bytes) : steps_(steps), bytes_(bytes) {}
  ~Budget();
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;
  void step(int64_t count = 1) {
    if ((steps_ -= count) < 0) throw TemplateError("the template takes too many steps");
  }
  /// For what an operation has to look at or copy.
  void touch(const Value& value);
  /// For text that is made, and for lists: about what they take.
  void take(size_t bytes) {
    if ((bytes_ -= static_cast<int64_t>(bytes)) < 0) {
      throw TemplateError("the template makes too much text");
    }
  }

  /// Keeps a namespace, which may hold itself, and empties it in the end.
  Value::NamespacePtr own(Namespace names);

 private:
  int64_t steps_;
  int64_t bytes_;
  std::vector<Value::NamespacePtr> namespaces_;
};

/// A bound of nesting: of templates' text, of calls, and (more of them) of values in each other.
inline constexpr int kMostNested = 64;
inline constexpr int kMostNestedValues = 200;

/// Bytes of one value's text.
inline constexpr int64_t kMostText = int64_t{8} << 20;

/// str() and repr() of Python.
std::string to_text(const Value& value);
std::string to_repr(const Value& value);
/// Python's ==.
bool equal(const Value& a, const Value& b);
/// Negative, zero or positive. Errors: values that Python does not order.
int compare(const Value& a, const Value& b);
/// Errors: a list or dict, which Python does not take for a key.
void check_key(const Value& key);
/// `needle in hay`.
bool contains(const Value& hay, const Value& needle);
/// The elements that `for` sees: of a list, the keys of a dict, the characters of a string.
std::vector<Value> elements(const Value& value);

struct JsonStyle {
  int indent = -1;  ///< -1: all on one line
  bool ascii = false;
  bool sort_keys = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
/// Python's json.dumps.
std::string to_json(const Value& value, const JsonStyle& style);
Value from_json(const nlohmann::ordered_json& json);

/// Text as code points, whose bytes are `text`'s. What is no UTF-8 counts byte by byte.
std::vector<std::string_view> characters(std::string_view text);
/// Appends a code point, which is no surrogate and at most 0x10ffff.
void append_character(uint32_t point, std::string& out);
std::string upper(std::string_view text);
std::string lower(std::string_view text);
bool is_space(std::string_view character);
/// Without characters at its ends that are in `what`; empty: white space.
std::string_view strip(std::string_view text, std::string_view what, bool left, bool right);

}  // namespace fourfold::jinja
