#include "grammar/graph.h"

#include <algorithm>
#include <utility>

namespace fourfold::grammar {

Rule GraphBuilder::add_rule() {
  starts_.push_back(add_node());
  rule_ends_.push_back(add_node());
  return static_cast<Rule>(starts_.size() - 1);
}

void GraphBuilder::add(Node from, Graph::Edge edge) {
  if (!full()) edges_.push_back({from, edge});
}

void GraphBuilder::add_bytes(Node from, uint8_t low, uint8_t high, Node to) {
  add(from, {.to = to, .rule = 0, .kind = Graph::Edge::Kind::kByte, .low = low, .high = high});
}

void GraphBuilder::add_text(Node from, std::string_view text, Node to) {
  for (const char c : text) {
    const Node next = add_node();
    add_bytes(from, static_cast<uint8_t>(c), static_cast<uint8_t>(c), next);
    from = next;
    if (full()) return;
  }
  add_empty(from, to);
}

void GraphBuilder::add_empty(Node from, Node to) {
  add(from, {.to = to, .rule = 0, .kind = Graph::Edge::Kind::kEmpty, .low = 0, .high = 0});
}

void GraphBuilder::add_call(Node from, Rule rule, Node to) {
  add(from, {.to = to, .rule = rule, .kind = Graph::Edge::Kind::kCall, .low = 0, .high = 0});
}

/// Of each node, kNever where its rule's end cannot be reached. Level by level: with one more call
/// within a call, what more can be reached?
std::vector<int32_t> GraphBuilder::count_needed_calls() const {
  const auto nodes = static_cast<size_t>(nodes_);
  std::vector<uint32_t> first(nodes + 1);  // of the edges that lead to a node
  for (const FromEdge& e : edges_) ++first[static_cast<size_t>(e.edge.to) + 1];
  for (size_t i = 0; i < nodes; ++i) first[i + 1] += first[i];
  std::vector<uint32_t> into(edges_.size());
  std::vector<uint32_t> next(first.begin(), first.end() - 1);
  for (uint32_t i = 0; i < edges_.size(); ++i) {
    into[next[static_cast<size_t>(edges_[i].edge.to)]++] = i;
  }
  std::vector<int32_t> needed(nodes, kNever);
  std::vector<Node> found;
  const auto reach = [&](Node node, int32_t level) {
    if (needed[static_cast<size_t>(node)] != kNever) return;
    needed[static_cast<size_t>(node)] = level;
    found.push_back(node);
  };
  const auto usable = [&](const Graph::Edge& edge, int32_t level) {
    return edge.kind != Graph::Edge::Kind::kCall ||
           needed[static_cast<size_t>(start_of(edge.rule))] < level;
  };
  bool grows = true;
  for (int32_t level = 0; grows && level <= kMaxDepth; ++level) {
    if (level == 0) {
      for (const Node end : rule_ends_) reach(end, level);
    }
    for (const FromEdge& e : edges_) {
      const bool leads_on = needed[static_cast<size_t>(e.edge.to)] != kNever;
      if (leads_on && usable(e.edge, level)) reach(e.from, level);
    }
    while (!found.empty()) {
      const auto node = static_cast<size_t>(found.back());
      found.pop_back();
      for (uint32_t i = first[node]; i < first[node + 1]; ++i) {
        const FromEdge& e = edges_[into[i]];
        if (usable(e.edge, level)) reach(e.from, level);
      }
    }
    grows = std::any_of(starts_.begin(), starts_.end(),
                        [&](Node start) { return needed[static_cast<size_t>(start)] == level; });
  }
  return needed;
}

base::Result<Graph> GraphBuilder::finish() && {
  if (full()) {
    return base::fail("it is too large: its automaton has more than {} edges", kMaxEdges);
  }
  Graph graph;
  graph.needed_ = count_needed_calls();
  graph.start_ = start_of(kWhole);
  if (graph.calls_needed(graph.start_) == kNever) {
    return base::fail("no text agrees with it, or none that is nested less than {} deep",
                      kMaxDepth);
  }
  std::erase_if(edges_, [&](const FromEdge& e) {
    const bool calls = e.edge.kind == Graph::Edge::Kind::kCall;
    return graph.calls_needed(e.edge.to) == kNever ||
           (calls && graph.calls_needed(start_of(e.edge.rule)) == kNever);
  });
  std::stable_sort(edges_.begin(), edges_.end(),
                   [](const FromEdge& a, const FromEdge& b) { return a.from < b.from; });
  graph.first_.resize(static_cast<size_t>(nodes_) + 1);
  for (const FromEdge& e : edges_) {
    ++graph.first_[static_cast<size_t>(e.from) + 1];
    graph.edges_.push_back(e.edge);
  }
  for (size_t i = 1; i < graph.first_.size(); ++i) graph.first_[i] += graph.first_[i - 1];
  graph.ends_.resize(static_cast<size_t>(nodes_));
  for (const Node end : rule_ends_) graph.ends_[static_cast<size_t>(end)] = true;
  graph.starts_ = std::move(starts_);
  return graph;
}

}  // namespace fourfold::grammar
