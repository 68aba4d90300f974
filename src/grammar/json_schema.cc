#include "grammar/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "files/printable.h"
#include "grammar/characters.h"
#include "grammar/json_parts.h"
#include "grammar/regex.h"

namespace fourfold::grammar {
namespace {

using base::fail;
using base::Status;
using nlohmann::ordered_json;

/// What a schema may say without changing which values agree with it.
constexpr std::array kNotes = {
    "title",       "description",   "default",         "examples",        "example", "deprecated",
    "readOnly",    "writeOnly",     "$comment",        "$schema",         "$id",     "$defs",
    "definitions", "discriminator", "contentEncoding", "contentMediaType"};

/// Keywords that concern values of one type only.
struct Keyword {
  std::string_view name;
  std::string_view type;
};
constexpr Keyword kKeywords[] = {
    {"properties", "object"}, {"required", "object"},         {"additionalProperties", "object"},
    {"items", "array"},       {"prefixItems", "array"},       {"minItems", "array"},
    {"maxItems", "array"},    {"minLength", "string"},        {"maxLength", "string"},
    {"pattern", "string"},    {"format", "string"},           {"minimum", "number"},
    {"maximum", "number"},    {"exclusiveMinimum", "number"}, {"exclusiveMaximum", "number"},
};

constexpr std::string_view kDate =
    "((000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-"
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|"
    "02-(0[1-9]|1[0-9]|2[0-8]))|"
    "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)-02-29)";
constexpr std::string_view kTime =
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
constexpr std::string_view kUuid =
    "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}";
constexpr std::string_view kIpv4 =
    "((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}"
    "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
/// Those without quotes, comments and addresses in brackets.
constexpr std::string_view kEmail =
    "[A-Za-z0-9_+-]{1,24}(\\.[A-Za-z0-9_+-]{1,24})?@"
    "([A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?\\.){1,3}[A-Za-z]{2,12}";

std::optional<std::string> format_pattern(std::string_view format) {
  if (format == "date") return std::string(kDate);
  if (format == "time") return std::string(kTime);
  if (format == "date-time") return fmt::format("{}T{}", kDate, kTime);
  if (format == "uuid") return std::string(kUuid);
  if (format == "ipv4") return std::string(kIpv4);
  if (format == "email") return std::string(kEmail);
  return std::nullopt;
}

std::string quoted(const std::string& text) { return ordered_json(text).dump(); }

bool has_type(const ordered_json& value, std::string_view type) {
  if (type == "integer") {
    return value.is_number_integer() ||
           (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>());
  }
  if (type == "number") return value.is_number();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "array") return value.is_array();
  return value.is_object();
}

class SchemaCompiler {
 public:
  explicit SchemaCompiler(const ordered_json& root) : root_(root), parts_(builder_) {}

  base::Result<Graph> compile() {
    FF_TRY(add(root_, "#", builder_.start_of(GraphBuilder::kWhole),
               builder_.end_of(GraphBuilder::kWhole)));
    // One after the other, as each may refer to further ones.
    while (!pending_.empty()) {
      const Reference next = pending_.back();
      pending_.pop_back();
      FF_TRY(
          add(*next.target, next.path, builder_.start_of(next.rule), builder_.end_of(next.rule)));
    }
    return std::move(builder_).finish();
  }

 private:
  /// A schema that others refer to.
  struct Reference {
    const ordered_json* target = nullptr;
    std::string path;
    Rule rule = 0;
  };

  static base::Error unsupported(std::string_view keyword, std::string_view path) {
    return fail("the schema has {} at {}, which is not supported here", keyword, path);
  }
  static base::Error broken(std::string_view keyword, std::string_view path,
                            std::string_view expected) {
    return fail("the schema has a {} at {} that is no {}", keyword, path, expected);
  }

  /// The values that agree with a schema.
  Status add(const ordered_json& schema, const std::string& path, Node from, Node to) {
    if (builder_.full()) return {};
    if (schema.is_boolean()) {
      if (schema.get<bool>()) builder_.add_call(from, parts_.any_value(), to);
      return {};
    }
    if (!schema.is_object()) return fail("the schema at {} is neither object nor boolean", path);
    for (const auto& [key, value] : schema.items()) FF_TRY(check_keyword(key, value, path));
    if (schema.contains("$ref")) return add_reference(schema, path, from, to);
    for (const char* key : {"anyOf", "oneOf", "allOf"}) {
      if (schema.contains(key)) return add_union(schema, key, path, from, to);
    }
    if (schema.contains("const") || schema.contains("enum")) {
      return add_given(schema, path, from, to);
    }
    FF_ASSIGN(const std::vector<std::string> types, types_of(schema, path));
    if (types.empty()) {
      builder_.add_call(from, parts_.any_value(), to);
      return {};
    }
    for (const std::string& type : types) FF_TRY(add_type(schema, type, path, from, to));
    return {};
  }

  static Status check_keyword(const std::string& key, const ordered_json& value,
                              const std::string& path) {
    static constexpr std::array kCombining = {"$ref", "anyOf", "oneOf", "allOf",
                                              "enum", "const", "type"};
    const auto is_key = [&](std::string_view name) { return name == key; };
    const bool known = std::any_of(kNotes.begin(), kNotes.end(), is_key) ||
                       std::any_of(kCombining.begin(), kCombining.end(), is_key) ||
                       key.starts_with("x-") ||
                       std::any_of(std::begin(kKeywords), std::end(kKeywords),
                                   [&](const Keyword& keyword) { return keyword.name == key; }) ||
                       (key == "uniqueItems" && value == false);
    // Below the root it would change what references mean.
    if (known && (key != "$id" || path == "#")) return {};
    return unsupported(files::printable(key), path);
  }

  /// A keyword beside which only notes may stand.
  Status check_alone(const ordered_json& schema, std::string_view keyword,
                     const std::string& path) const {
    for (const auto& [key, value] : schema.items()) {
      const auto is_key = [&](std::string_view name) { return name == key; };
      if (key == keyword || std::any_of(kNotes.begin(), kNotes.end(), is_key) ||
          key.starts_with("x-")) {
        continue;
      }
      return unsupported(fmt::format("{} beside {}", key, keyword), path);
    }
    return {};
  }

  Status add_reference(const ordered_json& schema, const std::string& path, Node from, Node to) {
    FF_TRY(check_alone(schema, "$ref", path));
    if (!schema["$ref"].is_string()) return broken("$ref", path, "string");
    const auto& reference = schema["$ref"].get_ref<const std::string&>();
    auto found = referenced_.find(reference);
    if (found == referenced_.end()) {
      const ordered_json* target = nullptr;
      if (reference.starts_with('#')) {
        try {
          target = &root_.at(ordered_json::json_pointer(reference.substr(1)));
        } catch (const ordered_json::exception&) {  // no pointer, or to nothing
        }
      }
      if (target == nullptr) {
        return fail("the schema has a $ref at {} to {}, which is nothing in it", path,
                    files::printable(reference));
      }
      found = referenced_.emplace(reference, builder_.add_rule()).first;
      pending_.push_back({target, reference, found->second});
    }
    builder_.add_call(from, found->second, to);
    return {};
  }

  Status add_union(const ordered_json& schema, const char* key, const std::string& path, Node from,
                   Node to) {
    FF_TRY(check_alone(schema, key, path));
    const ordered_json& list = schema[key];
    if (!list.is_array() || list.empty()) return broken(key, path, "list of schemas");
    if (key == std::string_view("allOf") && list.size() > 1) {
      return unsupported("allOf of several schemas", path);
    }
    for (size_t i = 0; i < list.size(); ++i) {
      FF_TRY(add(list[i], fmt::format("{}/{}/{}", path, key, i), from, to));
    }
    return {};
  }

  static base::Result<std::vector<std::string>> types_of(const ordered_json& schema,
                                                         const std::string& path) {
    std::vector<std::string> out;
    if (!schema.contains("type")) {
      // A keyword of one type says that this type is meant.
      for (const Keyword& keyword : kKeywords) {
        const std::string type(keyword.type);
        if (schema.contains(keyword.name) && std::find(out.begin(), out.end(), type) == out.end()) {
          out.push_back(type);
        }
      }
      return out;
    }
    const ordered_json& type = schema["type"];
    static constexpr std::array kTypes = {"object",  "array",   "string", "number",
                                          "integer", "boolean", "null"};
    for (const ordered_json& entry : type.is_array() ? type : ordered_json::array({type})) {
      const bool known =
          entry.is_string() && std::any_of(kTypes.begin(), kTypes.end(), [&](const char* name) {
            return entry.get_ref<const std::string&>() == name;
          });
      if (!known) return broken("type", path, "type of JSON");
      out.push_back(entry);
    }
    if (out.empty()) return broken("type", path, "type of JSON");
    return out;
  }

  /// enum or const: the values themselves.
  Status add_given(const ordered_json& schema, const std::string& path, Node from, Node to) {
    const char* key = schema.contains("const") ? "const" : "enum";
    for (const auto& [name, value] : schema.items()) {
      const bool keyword = std::any_of(std::begin(kKeywords), std::end(kKeywords),
                                       [&](const Keyword& k) { return k.name == name; });
      if (keyword || (name != key && (name == "const" || name == "enum"))) {
        return unsupported(fmt::format("{} beside {}", name, key), path);
      }
    }
    std::vector<std::string> types;
    if (schema.contains("type")) {
      FF_ASSIGN(types, types_of(schema, path));
    }
    if (key == std::string_view("enum") && !schema[key].is_array()) {
      return broken(key, path, "list of values");
    }
    const ordered_json one = ordered_json::array({schema[key]});
    std::vector<std::string> texts;
    for (const ordered_json& value : key == std::string_view("enum") ? schema[key] : one) {
      const bool agrees =
          types.empty() || std::any_of(types.begin(), types.end(), [&](const std::string& type) {
            return has_type(value, type);
          });
      if (!agrees) continue;
      if (value.is_structured()) {
        add_value(value, from, to);
      } else {
        texts.push_back(value.dump());
      }
    }
    add_texts(builder_, from, texts, to);
    return {};
  }

  /// One value, with the space that there may be within it.
  void add_value(const ordered_json& value, Node from, Node to) {
    if (!value.is_structured()) return builder_.add_text(from, value.dump(), to);
    const char* brackets = value.is_object() ? "{}" : "[]";
    Node at = parts_.open(from, brackets[0]);
    bool first = true;
    for (auto it = value.begin(); it != value.end() && !builder_.full(); ++it) {
      if (!first) at = parts_.comma(at);
      first = false;
      if (value.is_object()) {
        const Node named = builder_.add_node();
        builder_.add_text(at, quoted(it.key()), named);
        at = parts_.open(named, ':');
      }
      const Node next = builder_.add_node();
      add_value(*it, at, next);
      at = next;
    }
    if (first) {
      builder_.add_bytes(at, static_cast<uint8_t>(brackets[1]), static_cast<uint8_t>(brackets[1]),
                         to);
    } else {
      parts_.close(at, brackets[1], to);
    }
  }

  Status add_type(const ordered_json& schema, std::string_view type, const std::string& path,
                  Node from, Node to) {
    if (type == "object") return add_object(schema, path, from, to);
    if (type == "array") return add_array(schema, path, from, to);
    if (type == "string") return add_string(schema, path, from, to);
    if (type == "number" || type == "integer") {
      FF_ASSIGN(const NumberRange range, number_range(schema, path));
      if (type == "integer") {
        parts_.add_integer(from, range, to);
      } else {
        parts_.add_number(from, range, to);
      }
      return {};
    }
    if (type == "boolean") {
      builder_.add_text(from, "true", to);
      builder_.add_text(from, "false", to);
    } else {
      builder_.add_text(from, "null", to);
    }
    return {};
  }

  static base::Result<NumberRange> number_range(const ordered_json& schema,
                                                const std::string& path) {
    NumberRange range;
    for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}) {
      if (!schema.contains(key)) continue;
      const ordered_json& value = schema[key];
      if (!value.is_number()) return broken(key, path, "number");
      const double bound = value.get<double>();
      const auto whole = static_cast<int64_t>(
          std::clamp<double>(bound, -static_cast<double>(NumberRange::kMostBound),
                             static_cast<double>(NumberRange::kMostBound)));
      if (static_cast<double>(whole) != bound) {
        return unsupported(
            fmt::format("a {} of {}, not whole or of more than 15 digits,", key, value.dump()),
            path);
      }
      const bool exclusive = key[0] == 'e';
      const bool is_least = std::string_view(key).ends_with("inimum");
      std::optional<int64_t>& side = is_least ? range.least : range.most;
      bool& excluded = is_least ? range.above_least : range.below_most;
      const bool tighter = !side || (is_least ? whole > *side : whole < *side);
      if (tighter) {
        side = whole;
        excluded = exclusive;
      } else if (whole == *side) {
        excluded = excluded || exclusive;
      }
    }
    return range;
  }

  /// A count, or `fallback` where the key is absent.
  static base::Result<std::optional<int64_t>> count_at(const ordered_json& schema, const char* key,
                                                       const std::string& path) {
    if (!schema.contains(key)) return std::optional<int64_t>();
    const ordered_json& value = schema[key];
    if (!value.is_number_integer() || value < 0 || value > 1'000'000) {
      return broken(key, path, "count of at most 1000000");
    }
    return std::optional<int64_t>(value.get<int64_t>());
  }

  Status add_string(const ordered_json& schema, const std::string& path, Node from, Node to) {
    FF_ASSIGN(const std::optional<int64_t> least, count_at(schema, "minLength", path));
    FF_ASSIGN(const std::optional<int64_t> most, count_at(schema, "maxLength", path));
    std::optional<std::string> pattern;
    Match match = Match::kInside;
    if (schema.contains("pattern")) {
      if (!schema["pattern"].is_string()) return broken("pattern", path, "string");
      pattern = schema["pattern"];
    }
    if (schema.contains("format")) {
      if (!schema["format"].is_string()) return broken("format", path, "string");
      const auto& format = schema["format"].get_ref<const std::string&>();
      if (pattern) return unsupported("format beside pattern", path);
      pattern = format_pattern(format);
      match = Match::kWhole;
      if (!pattern) return unsupported("the format " + files::printable(format), path);
    }
    if (!pattern) {
      parts_.add_string(from, least.value_or(0), most, to);
      return {};
    }
    if (least || most) return unsupported("a length beside a pattern or format", path);
    const Node begin = builder_.add_node();
    const Node end = builder_.add_node();
    builder_.add_bytes(from, '"', '"', begin);
    builder_.add_bytes(end, '"', '"', to);
    const Status status = add_regex(builder_, begin, *pattern, match, Spelling::kJsonString, end);
    if (!status.ok()) return fail("{} (pattern at {})", status.error().message, path);
    return {};
  }

  /// A rule for a schema that stands at several places of the graph.
  base::Result<Rule> rule_of(const ordered_json& schema, const std::string& path) {
    const Rule rule = builder_.add_rule();
    FF_TRY(add(schema, path, builder_.start_of(rule), builder_.end_of(rule)));
    return rule;
  }

  struct Property {
    std::string name;
    bool required = false;
    Rule member = 0;  ///< name and value
  };

  base::Result<std::vector<Property>> properties_of(const ordered_json& schema,
                                                    const std::string& path) {
    std::vector<Property> out;
    std::map<std::string, size_t> places;
    const auto add_property = [&](const std::string& name, const ordered_json& value,
                                  const std::string& where) -> Status {
      const Rule member = builder_.add_rule();
      const Node named = builder_.add_node();
      builder_.add_text(builder_.start_of(member), quoted(name), named);
      FF_TRY(add(value, where, parts_.open(named, ':'), builder_.end_of(member)));
      places.emplace(name, out.size());
      out.push_back({name, false, member});
      return {};
    };
    if (schema.contains("properties")) {
      if (!schema["properties"].is_object()) return broken("properties", path, "object");
      for (const auto& [name, value] : schema["properties"].items()) {
        FF_TRY(add_property(name, value,
                            fmt::format("{}/properties/{}", path, files::printable(name))));
      }
    }
    if (!schema.contains("required")) return out;
    const ordered_json& required = schema["required"];
    if (!required.is_array()) return broken("required", path, "list of names");
    for (const ordered_json& name : required) {
      if (!name.is_string()) return broken("required", path, "list of names");
      if (!places.contains(name)) {
        // Of what schema the others are: any, where nothing is said.
        const ordered_json others = schema.contains("additionalProperties")
                                        ? schema["additionalProperties"]
                                        : ordered_json(true);
        FF_TRY(add_property(name, others, path + "/additionalProperties"));
      }
      out[places.at(name)].required = true;
    }
    return out;
  }

  Status add_object(const ordered_json& schema, const std::string& path, Node from, Node to) {
    const bool says_nothing = !schema.contains("properties") && !schema.contains("required") &&
                              !schema.contains("additionalProperties");
    if (says_nothing) {
      builder_.add_call(from, parts_.any_object(), to);
      return {};
    }
    FF_ASSIGN(const std::vector<Property> properties, properties_of(schema, path));
    // Where no member has come yet, and where some have.
    Node first = parts_.open(from, '{');
    Node later = builder_.add_node();
    std::vector<std::string> names;
    for (const Property& property : properties) {
      const Node next_first = builder_.add_node();
      const Node next_later = builder_.add_node();
      builder_.add_call(first, property.member, next_later);
      builder_.add_call(parts_.comma(later), property.member, next_later);
      if (!property.required) {
        builder_.add_empty(first, next_first);
        builder_.add_empty(later, next_later);
      }
      first = next_first;
      later = next_later;
      names.push_back(property.name);
    }
    builder_.add_bytes(first, '}', '}', to);
    const ordered_json others = schema.contains("additionalProperties")
                                    ? schema["additionalProperties"]
                                    : ordered_json(false);
    if (others != false) {
      FF_ASSIGN(const Rule value, rule_of(others, path + "/additionalProperties"));
      later = parts_.add_members(first, later, names, value);
    }
    parts_.close(later, '}', to);
    return {};
  }

  Status add_array(const ordered_json& schema, const std::string& path, Node from, Node to) {
    FF_ASSIGN(const std::optional<int64_t> least, count_at(schema, "minItems", path));
    FF_ASSIGN(const std::optional<int64_t> most, count_at(schema, "maxItems", path));
    std::vector<Rule> items;
    if (schema.contains("prefixItems")) {
      const ordered_json& prefix = schema["prefixItems"];
      if (!prefix.is_array()) return broken("prefixItems", path, "list of schemas");
      for (size_t i = 0; i < prefix.size(); ++i) {
        FF_ASSIGN(const Rule rule, rule_of(prefix[i], fmt::format("{}/prefixItems/{}", path, i)));
        items.push_back(rule);
      }
    }
    const ordered_json rest_schema =
        schema.contains("items") ? schema["items"] : ordered_json(true);
    FF_ASSIGN(const Rule rest, rule_of(rest_schema, path + "/items"));
    const auto prefix = std::ssize(items);
    // Items that have places of their own; the last of them may come again where there is no most.
    const int64_t places = most.value_or(std::max(prefix, least.value_or(0)) + 1);
    Node at = parts_.open(from, '[');
    if (least.value_or(0) == 0) builder_.add_bytes(at, ']', ']', to);
    for (int64_t i = 0; i < places && !builder_.full(); ++i) {
      const Node next = builder_.add_node();
      const Rule item = i < prefix ? items[static_cast<size_t>(i)] : rest;
      builder_.add_call(i == 0 ? at : parts_.comma(at), item, next);
      at = next;
      if (i + 1 >= least.value_or(0)) parts_.close(at, ']', to);
    }
    if (!most) builder_.add_call(parts_.comma(at), rest, at);
    return {};
  }

  const ordered_json& root_;
  GraphBuilder builder_;
  JsonParts parts_;
  std::map<std::string, Rule> referenced_;
  std::vector<Reference> pending_;
};

}  // namespace

base::Result<Graph> schema_graph(const ordered_json& schema) {
  return SchemaCompiler(schema).compile();
}

Graph json_object_graph() {
  GraphBuilder builder;
  JsonParts parts(builder);
  builder.add_call(builder.start_of(GraphBuilder::kWhole), parts.any_object(),
                   builder.end_of(GraphBuilder::kWhole));
  return std::move(builder).finish().value();
}

base::Result<Graph> regex_graph(std::string_view pattern) {
  GraphBuilder builder;
  FF_TRY(add_regex(builder, builder.start_of(GraphBuilder::kWhole), pattern, Match::kWhole,
                   Spelling::kPlain, builder.end_of(GraphBuilder::kWhole)));
  return std::move(builder).finish();
}

base::Result<Graph> choice_graph(const std::vector<std::string>& choices) {
  if (choices.empty()) return fail("expected at least one choice");
  if (std::find(choices.begin(), choices.end(), "") != choices.end()) {
    return fail("expected choices of at least one character");
  }
  GraphBuilder builder;
  add_texts(builder, builder.start_of(GraphBuilder::kWhole), choices,
            builder.end_of(GraphBuilder::kWhole));
  return std::move(builder).finish();
}

}  // namespace fourfold::grammar
