#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "grammar/graph.h"

namespace fourfold::grammar {

/// Bounds of a number of up to kMostBound, both included but where they are said not to be.
struct NumberRange {
  static constexpr int64_t kMostBound = 999'999'999'999'999;

  std::optional<int64_t> least;
  std::optional<int64_t> most;
  bool above_least = false;
  bool below_most = false;

  bool bounded() const { return least.has_value() || most.has_value(); }
};

/// The parts of JSON that all schemas share, as rules of one graph, made when they are asked for.
class JsonParts {
 public:
  explicit JsonParts(GraphBuilder& builder) : builder_(builder) {}

  /// Space between two tokens, or none.
  Rule space();
  /// One character of a string.
  Rule character();
  Rule any_value();
  Rule any_object();

  void add_string(Node from, int64_t least, std::optional<int64_t> most, Node to);
  void add_integer(Node from, const NumberRange& range, Node to);
  void add_number(Node from, const NumberRange& range, Node to);
  /// "{" and space up to the first member; what ends the object behind another member.
  Node open(Node from, char bracket);
  void close(Node from, char bracket, Node to);
  /// Behind a member or item: the comma before the next one.
  Node comma(Node from);
  /// Members of any name but `known`, any number of them. `first`: where none came before; `later`:
  /// where some did; `value`: their values. Where the object may end: returned, with space before
  /// its end to come.
  Node add_members(Node first, Node later, std::span<const std::string> known, Rule value);

 private:
  void add_digits_between(Node from, uint64_t least, uint64_t most, Node to);
  void add_magnitude(Node from, uint64_t least, std::optional<uint64_t> most, Node to);
  void add_fraction(Node from, bool zero, bool positive, Node to);
  void add_decimal(Node from, uint64_t least, bool above, std::optional<uint64_t> most, bool below,
                   Node to);
  void add_name(Node from, std::span<const std::string> known, Node to);

  GraphBuilder& builder_;
  std::optional<Rule> space_;
  std::optional<Rule> character_;
  std::optional<Rule> value_;
  std::optional<Rule> object_;
};

}  // namespace fourfold::grammar
