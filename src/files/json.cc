#include "files/json.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "files/mapped_file.h"
#include "files/printable.h"

namespace fourfold::files {

using base::Error;
using base::fail;
using base::Result;
using nlohmann::json;

namespace {

// Builds the document from the parser's events, so that limits and duplicate keys are seen before
// memory is spent on them. A method that returns false ends the parse with error().
class Builder final : public nlohmann::json_sax<json> {
 public:
  Builder(std::string_view text, std::string_view what, const JsonLimits& limits)
      : text_(text), what_(what), limits_(limits) {}

  json take() { return std::move(root_); }
  const Error& error() const { return *error_; }

  bool null() override { return add(nullptr) != nullptr; }
  bool boolean(bool value) override { return add(value) != nullptr; }
  bool number_integer(int64_t value) override { return add(value) != nullptr; }
  bool number_unsigned(uint64_t value) override { return add(value) != nullptr; }
  bool number_float(double value, const std::string&) override { return add(value) != nullptr; }
  bool string(std::string& value) override { return add(value) != nullptr; }
  bool binary(json::binary_t& value) override { return add(value) != nullptr; }
  bool start_object(size_t) override { return open(json::object()); }
  bool start_array(size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    const auto [slot, inserted] = open_.back()->get_ref<json::object_t&>().emplace(name, nullptr);
    if (!inserted) return refuse(fail("{}: the key \"{}\" stands twice", what_, printable(name)));
    slot_ = &slot->second;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    return refuse(json_syntax_error(text_, position, error, what_));
  }

 private:
  bool refuse(Error error) {
    error_ = std::move(error);
    return false;
  }

  // Puts a value where the document goes on; nullptr if there are too many.
  json* add(json value) {
    if (++values_ > limits_.max_values) {
      refuse(fail("{}: more than {} values", what_, limits_.max_values));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) return &open_.back()->emplace_back(std::move(value));
    *slot_ = std::move(value);
    return slot_;
  }

  bool open(json container) {
    if (std::ssize(open_) == limits_.max_depth) {
      return refuse(fail("{}: nested more than {} deep", what_, limits_.max_depth));
    }
    json* added = add(std::move(container));
    if (added == nullptr) return false;
    open_.push_back(added);
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  std::string_view what_;
  JsonLimits limits_;
  int64_t values_ = 0;
  json root_;
  std::vector<json*> open_;  // the containers around the next value, outermost first
  json* slot_ = nullptr;     // where the value of the last key belongs
  std::optional<Error> error_;
};

// A value as a message shows it.
std::string describe(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_string()) return '"' + printable(value.get_ref<const std::string&>()) + '"';
  return value.dump();
}

Result<const json*> member(const json& object, std::string_view key, std::string_view expected,
                           std::string_view what) {
  if (!object.is_object()) {
    return fail("expected an object in {}, found {}", what, describe(object));
  }
  const auto found = object.find(key);
  if (found == object.end())
    return fail("expected {} for \"{}\" in {}, found no such key", expected, key, what);
  return &*found;
}

Error mismatch(const json& found, std::string_view key, std::string_view expected,
               std::string_view what) {
  return fail("expected {} for \"{}\" in {}, found {}", expected, key, what, describe(found));
}

std::optional<int64_t> as_int64(const json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
    return std::nullopt;
  }
  return value.get<int64_t>();
}

}  // namespace

Result<json> parse_json(std::string_view text, std::string_view what, const JsonLimits& limits) {
  if (std::ssize(text) > limits.max_bytes) {
    return fail("{} has {} bytes; at most {} are read", what, text.size(), limits.max_bytes);
  }
  Builder builder(text, what, limits);
  if (!json::sax_parse(text, &builder)) return builder.error();
  return builder.take();
}

Result<json> parse_json_file(const std::filesystem::path& path, const JsonLimits& limits) {
  FF_ASSIGN(const MappedFile file, MappedFile::open(path));
  return parse_json(file.text(), file.path(), limits);
}

template <>
Result<bool> json_get<bool>(const json& object, std::string_view key, std::string_view what) {
  FF_ASSIGN(const json* value, member(object, key, "true or false", what));
  if (!value->is_boolean()) return mismatch(*value, key, "true or false", what);
  return value->get<bool>();
}

template <>
Result<int64_t> json_get<int64_t>(const json& object, std::string_view key, std::string_view what) {
  FF_ASSIGN(const json* value, member(object, key, "an integer", what));
  const std::optional<int64_t> integer = as_int64(*value);
  if (!integer) return mismatch(*value, key, "an integer", what);
  return *integer;
}

template <>
Result<double> json_get<double>(const json& object, std::string_view key, std::string_view what) {
  FF_ASSIGN(const json* value, member(object, key, "a number", what));
  if (!value->is_number()) return mismatch(*value, key, "a number", what);
  return value->get<double>();
}

template <>
Result<std::string> json_get<std::string>(const json& object, std::string_view key,
                                          std::string_view what) {
  FF_ASSIGN(const json* value, member(object, key, "a string", what));
  if (!value->is_string()) return mismatch(*value, key, "a string", what);
  return value->get<std::string>();
}

Result<int64_t> json_get_positive(const json& object, std::string_view key, std::string_view what) {
  FF_ASSIGN(const json* value, member(object, key, "a positive integer", what));
  const std::optional<int64_t> integer = as_int64(*value);
  if (!integer || *integer < 1) return mismatch(*value, key, "a positive integer", what);
  return *integer;
}

Error json_syntax_error(std::string_view text, size_t position, const json::exception& error,
                        std::string_view what) {
  const std::string_view read = text.substr(0, position);
  const auto line = 1 + std::ranges::count(read, '\n');
  const size_t line_start = read.rfind('\n') + 1;  // npos + 1 = 0 on the first line
  // The library's own text: "[json.exception...] parse error at line 1, column 2: REASON".
  std::string_view detail = error.what();
  for (const std::string_view separator : {"] ", ": "}) {
    const size_t at = detail.find(separator);
    if (at != std::string_view::npos) detail.remove_prefix(at + separator.size());
  }
  return fail("{}, line {}, column {}: {}", what, line, position - line_start,
              printable(detail, 200));
}

}  // namespace fourfold::files
