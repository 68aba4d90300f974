#include "grammar/machine.h"

#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include "base/check.h"

namespace fourfold::grammar {
namespace {

constexpr int64_t kWorkOfStart = 1'000'000;
constexpr int64_t kWorkOfPlace = 4;
constexpr int64_t kWorkOfState = 32;

size_t mix(size_t hash, uint64_t value) {
  hash ^= value;
  hash *= 0x9E3779B97F4A7C15U;
  return hash ^ (hash >> 29);
}

}  // namespace

Machine::Machine(std::shared_ptr<const Graph> graph) : graph_(std::move(graph)) {
  allow_work(kWorkOfStart);
  to_visit_.push_back({graph_->start(), 0});
  start_ = settle(/*complete=*/false);
  work_left_ = 0;
}

Machine::FrameId Machine::frame_of(Node next, FrameId caller) {
  const uint64_t key = uint64_t{caller} << 32 | static_cast<uint32_t>(next);
  const auto [found, is_new] = frame_ids_.try_emplace(key, static_cast<FrameId>(frames_.size()));
  if (is_new) {
    frames_.push_back({next, caller, frames_[caller].depth + 1});
    bytes_ += sizeof(Frame) + 4 * sizeof(uint64_t);
  }
  return found->second;
}

/// Follows the edges of a place that spell nothing.
void Machine::visit(Place place) {
  if (!seen_.insert(key_of(place)).second) return;
  const std::span<const Graph::Edge> edges = graph_->edges(place.node);
  work_left_ -= kWorkOfPlace + std::ssize(edges);
  const Frame frame = frames_[place.frame];
  const auto can_end = [&](Node node, int32_t depth) {
    return depth + graph_->calls_needed(node) <= kMaxDepth;
  };
  if (graph_->ends(place.node)) {
    if (place.frame == 0) {
      reached_end_ = true;
    } else {
      to_visit_.push_back({frame.next, frame.caller});
    }
  }
  bool has_bytes = false;
  for (const Graph::Edge& edge : edges) {
    switch (edge.kind) {
      case Graph::Edge::Kind::kByte:
        has_bytes = true;
        break;
      case Graph::Edge::Kind::kEmpty:
        if (can_end(edge.to, frame.depth)) to_visit_.push_back({edge.to, place.frame});
        break;
      case Graph::Edge::Kind::kCall: {
        const Node begin = graph_->start_of(edge.rule);
        if (can_end(edge.to, frame.depth) && can_end(begin, frame.depth + 1)) {
          // A call that is the last thing in its rule need not come back to it.
          const bool last = graph_->ends(edge.to);
          to_visit_.push_back({begin, last ? place.frame : frame_of(edge.to, place.frame)});
        }
        break;
      }
    }
  }
  if (has_bytes) reached_.push_back(place);
}

/// The state of the places that are to be visited, and of all that they lead to without a byte.
Machine::State Machine::settle(bool complete) {
  constexpr size_t kUsual = 256;
  if (seen_.bucket_count() > kUsual) seen_ = {};  // clearing takes as long as it was large once
  seen_.clear();
  reached_.clear();
  reached_end_ = complete;
  while (!to_visit_.empty()) {
    const Place place = to_visit_.back();
    to_visit_.pop_back();
    visit(place);
    if (exhausted()) {
      to_visit_.clear();
      return kDead;
    }
  }
  if (reached_.empty() && !reached_end_) return kDead;
  std::sort(reached_.begin(), reached_.end());
  size_t hash = reached_end_ ? 1 : 0;
  for (const Place& place : reached_) {
    hash = mix(hash, key_of(place));
  }
  const auto [begin, end] = state_ids_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const StateData& known = states_[static_cast<size_t>(it->second)];
    if (known.complete == reached_end_ && known.places == reached_) return it->second;
  }
  const auto state = static_cast<State>(states_.size());
  states_.push_back({.places = reached_, .complete = reached_end_, .next = nullptr});
  state_ids_.emplace(hash, state);
  work_left_ -= kWorkOfState;
  bytes_ += sizeof(StateData) + reached_.size() * sizeof(Place) + 4 * sizeof(uint64_t);
  return state;
}

Machine::State Machine::next(State state, uint8_t byte) {
  const auto index = static_cast<size_t>(state);
  if (states_[index].next == nullptr) {
    states_[index].next = std::make_unique<std::array<State, 256>>();
    states_[index].next->fill(kUnknown);
    bytes_ += sizeof(std::array<State, 256>);
    work_left_ -= kWorkOfState;
  }
  const State known = (*states_[index].next)[byte];
  if (known != kUnknown) return known;
  for (const Place& place : states_[index].places) {
    const std::span<const Graph::Edge> edges = graph_->edges(place.node);
    work_left_ -= std::ssize(edges);
    for (const Graph::Edge& edge : edges) {
      const bool fits =
          edge.kind == Graph::Edge::Kind::kByte && edge.low <= byte && byte <= edge.high;
      if (!fits) continue;
      if (frames_[place.frame].depth + graph_->calls_needed(edge.to) > kMaxDepth) continue;
      to_visit_.push_back({edge.to, place.frame});
    }
  }
  const State found = settle(/*complete=*/false);
  if (!exhausted()) (*states_[index].next)[byte] = found;
  return found;
}

Machine::State Machine::import(const Machine& other, State state) {
  const auto copy = [&](FrameId frame) {
    std::vector<Node> nodes;
    for (; frame != 0; frame = other.frames_[frame].caller) {
      nodes.push_back(other.frames_[frame].next);
    }
    FrameId out = 0;
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) out = frame_of(*node, out);
    return out;
  };
  const StateData& data = other.states_[static_cast<size_t>(state)];
  for (const Place& place : data.places) to_visit_.push_back({place.node, copy(place.frame)});
  allow_work(std::numeric_limits<int64_t>::max());
  // What the places lead to without a byte is among them already.
  const State imported = settle(data.complete);
  work_left_ = 0;
  CHECK(imported != kDead, "a state with {} places", data.places.size());
  return imported;
}

}  // namespace fourfold::grammar
