#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "grammar/graph.h"

namespace fourfold::grammar {

/// Reads texts byte by byte along a graph, in all ways at once, and remembers every state that it
/// has been in: a deterministic automaton that is made as it is needed. Used by one thread at a
/// time.
class Machine {
 public:
  using State = int32_t;
  static constexpr State kDead = -1;  ///< no text of the language goes on like this

  explicit Machine(std::shared_ptr<const Graph> graph);

  /// kDead if even that takes too much work.
  State start() const { return start_; }
  /// kDead also where the work allowed is exceeded: ask exhausted().
  State next(State state, uint8_t byte);
  /// The text read so far belongs to the language.
  bool complete(State state) const { return states_[static_cast<size_t>(state)].complete; }

  /// Allows so much work from now on: edges of the graph that are looked at, and some for each new
  /// place and state.
  void allow_work(int64_t work) { work_left_ = work; }
  bool exhausted() const { return work_left_ < 0; }

  /// The same state of another machine for the same graph.
  State import(const Machine& other, State state);

  size_t states() const { return states_.size(); }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr State kUnknown = -2;
  using FrameId = uint32_t;
  /// A call that a reading is in: where it goes on after it.
  struct Frame {
    Node next = 0;
    FrameId caller = 0;
    int32_t depth = 0;
  };
  /// Where a reading is: a node that has edges with bytes, within a call.
  struct Place {
    Node node = 0;
    FrameId frame = 0;
    auto operator<=>(const Place&) const = default;
  };
  struct StateData {
    std::vector<Place> places;
    bool complete = false;
    std::unique_ptr<std::array<State, 256>> next;
  };
  FrameId frame_of(Node next, FrameId caller);
  static uint64_t key_of(Place place) {
    return uint64_t{place.frame} << 32 | static_cast<uint32_t>(place.node);
  }
  void visit(Place place);
  State settle(bool complete);

  std::shared_ptr<const Graph> graph_;
  std::vector<Frame> frames_ = {{}};  ///< 0: no call
  std::unordered_map<uint64_t, FrameId> frame_ids_;
  std::vector<StateData> states_;
  /// By hash of the places and of whether the text is complete.
  std::unordered_multimap<size_t, State> state_ids_;
  State start_ = 0;
  int64_t work_left_ = 0;
  size_t bytes_ = 0;

  // Of the state that is being made.
  std::vector<Place> reached_;
  std::vector<Place> to_visit_;
  bool reached_end_ = false;
  std::unordered_set<uint64_t> seen_;
};

}  // namespace fourfold::grammar
