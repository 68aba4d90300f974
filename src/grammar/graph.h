#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fourfold::grammar {

using Node = int32_t;
using Rule = int32_t;

/// Calls that a reading of a text may be in at once: the deepest nesting of JSON that is read or
/// written anywhere here.
inline constexpr int32_t kMaxDepth = 64;

/// A language over bytes as a graph: each rule has a node where it begins and one where it ends,
/// and a text belongs to the rule if a way from one to the other spells it. An edge spells one byte
/// of a range, nothing, or a text of another rule.
///
/// Every edge can be gone on from to the end of the language within kMaxDepth calls, so a reader
/// that follows it never gets stuck. Immutable.
class Graph {
 public:
  struct Edge {
    enum class Kind : uint8_t { kByte, kEmpty, kCall };
    Node to = 0;
    Rule rule = 0;  ///< kCall
    Kind kind = Kind::kEmpty;
    uint8_t low = 0;  ///< kByte: both ends included
    uint8_t high = 0;
  };

  Node start() const { return start_; }
  Node start_of(Rule rule) const { return starts_[static_cast<size_t>(rule)]; }
  std::span<const Edge> edges(Node node) const {
    const auto i = static_cast<size_t>(node);
    return std::span(edges_).subspan(first_[i], first_[i + 1] - first_[i]);
  }
  /// A rule's last node.
  bool ends(Node node) const { return ends_[static_cast<size_t>(node)]; }
  /// Calls that are needed at least, one within the other, to get from the node to its rule's end.
  int32_t calls_needed(Node node) const { return needed_[static_cast<size_t>(node)]; }

 private:
  friend class GraphBuilder;

  Node start_ = 0;
  std::vector<Node> starts_;     // by rule
  std::vector<uint32_t> first_;  // of a node's edges, by node
  std::vector<Edge> edges_;
  std::vector<bool> ends_;
  std::vector<int32_t> needed_;
};

/// Makes graphs. What goes beyond the budget is not added, and finish() says so; loops over counts
/// that a user chose ask full().
class GraphBuilder {
 public:
  static constexpr int64_t kMaxEdges = 400'000;

  GraphBuilder() { add_rule(); }

  /// The rule that the language is: 0.
  static constexpr Rule kWhole = 0;
  Rule add_rule();
  Node start_of(Rule rule) const { return starts_[static_cast<size_t>(rule)]; }
  Node end_of(Rule rule) const { return rule_ends_[static_cast<size_t>(rule)]; }

  Node add_node() { return nodes_++; }
  void add_bytes(Node from, uint8_t low, uint8_t high, Node to);
  void add_text(Node from, std::string_view text, Node to);
  void add_empty(Node from, Node to);
  void add_call(Node from, Rule rule, Node to);
  bool full() const { return std::ssize(edges_) >= kMaxEdges || nodes_ >= kMaxEdges; }

  /// Errors: the budget is exceeded; no text belongs to the language.
  base::Result<Graph> finish() &&;

 private:
  struct FromEdge {
    Node from;
    Graph::Edge edge;
  };
  static constexpr int32_t kNever = std::numeric_limits<int32_t>::max();

  void add(Node from, Graph::Edge edge);
  std::vector<int32_t> count_needed_calls() const;

  Node nodes_ = 0;
  std::vector<Node> starts_;
  std::vector<Node> rule_ends_;
  std::vector<FromEdge> edges_;
};

}  // namespace fourfold::grammar
