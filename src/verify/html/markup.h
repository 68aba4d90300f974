#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace fourfold::verify {

/// `text` for HTML, as text and between double quotes.
std::string escape(std::string_view text);

/// JSON for the inside of a <script> element: no string in it can end the element.
std::string script_json(const nlohmann::ordered_json& value);

/// Replaces each `{{name}}` of `page` by slots[name]. An unknown name is a bug.
std::string fill(std::string_view page, const std::map<std::string, std::string>& slots);

enum class Unit {
  kFigure,      ///< about three digits: 0.123, 1.23, 12.3, 1,234
  kCount,       ///< a whole number
  kShare,       ///< per cent; less than one never reads 100 %
  kBytes,       ///< KiB, MiB, GiB, TiB
  kLarge,       ///< with a suffix k, M, G, T
  kParameters,  ///< with a suffix k, M, B, T
  kRatio,       ///< times: "1.13 ×"
};

/// Every number of the report goes through here.
std::string format_number(double value, Unit unit);
/// `value` with as many decimals as format_number(reference, kFigure) has: for a ± beside its mean.
std::string format_like(double value, double reference);

/// A value of the report and the JSON pointer that leads to it, so that whatever is shown can be
/// traced (and is, by tests/report_test.cc): an element with `data-p` shows the value at that
/// pointer, which is relative to the `data-at` of the nearest ancestor that has one. A missing
/// value is a Node too, and reads as null.
class Node {
 public:
  explicit Node(const nlohmann::ordered_json& root) : value_(&root) {}

  /// The value at `path`, for example "metrics/ttft_ms/mean" or "loads/0".
  Node at(std::string_view path) const;
  Node at(size_t index) const { return at(std::to_string(index)); }
  /// The same value; pointers of what lies in it are relative to it from here on. For an element
  /// that carries at_attribute().
  Node anchored() const;

  size_t size() const;  ///< elements of an array or an object, else 0
  std::optional<double> number() const;
  std::string string() const;  ///< "" unless it is a string
  bool truth() const;          ///< false unless it is true
  const nlohmann::ordered_json& json() const { return *value_; }

  const std::string& pointer() const { return pointer_; }
  std::string at_attribute() const;  ///< ` data-at="/schemes/0"`

 private:
  const nlohmann::ordered_json* value_;
  std::string anchor_;   ///< of the nearest anchored() above
  std::string pointer_;  ///< from there
};

/// The number at `node` as an element that a test can trace; a dash where there is none.
std::string number(const Node& node, Unit unit);
/// The string at `node`, escaped, as an element that a test can trace; "" where there is none.
std::string text(const Node& node);
/// The dash that stands for a figure that this run cannot give.
std::string no_figure();

}  // namespace fourfold::verify
