#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "mesh/mesh.h"

namespace fourfold::comm {

/// What a rank does, at the grain at which a hang is told and a fault is injected.
enum class Operation : uint8_t {
  kStart,  ///< opens the model
  kMeet,   ///< waits until all ranks have started
  kLoad,
  kPrepare,  ///< makes steps ready
  kIdle,     ///< has no step
  kMeasure,  ///< its peaks
  kInputs,   ///< of a step: packs them, in a later stage waits for the residual
  kEmbed,
  kAttention,
  kMlp,
  kRoute,    ///< brings rows to their experts
  kExperts,  ///< computes with its experts and brings the results back
  kHead,
  kSample,
};
inline constexpr int kOperations = 14;
std::string_view name_of(Operation operation);

/// The calls of a Communicator.
enum class CallKind : uint8_t {
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kBroadcast,
  kBarrier,
  kSend,
  kRecv,
};
inline constexpr int kCallKinds = 8;
std::string_view name_of(CallKind kind);

/// A call of a Communicator that has begun and not ended.
struct OpenCall {
  CallKind kind = CallKind::kBarrier;
  mesh::Axis axis = mesh::Axis::kControl;
  int64_t sequence = 0;  ///< calls on this group before it; in collectives the same on all ranks
  int peer = -1;         ///< of send and recv: the other one's rank in the group
  bool operator==(const OpenCall&) const = default;
};

/// Where a rank is in its work.
struct Position {
  int64_t marks = 0;     ///< rises whenever the rank gets further, and never otherwise
  int64_t age_ns = 0;    ///< since the latest change of what follows
  int64_t step = -1;     ///< the latest that began; -1: none
  int32_t layer = -1;    ///< -1: outside the layers
  int64_t layer_ns = 0;  ///< what a layer of such a step typically takes; 0: not known yet
  Operation operation = Operation::kStart;
  std::optional<OpenCall> call;
  bool operator==(const Position&) const = default;
};

/// The marks that a rank leaves on its way: written by the rank's thread, read by any other. A mark
/// costs a few relaxed stores and a look at the clock. A reader may see a moving rank between two
/// marks, half here and half there; one that has stopped is seen as it stands.
class Progress {
 public:
  /// Is told of every mark, on the rank's thread, before the operation begins.
  class Observer {
   public:
    virtual ~Observer() = default;
    /// `data`: the residual of the shard, f32 [M * H], where the operation works on it, else empty.
    virtual void at(const Position& position, std::span<float> data) = 0;
    /// Is told how to make the rank's device fail, if it has one that can. Valid while it works.
    virtual void has_device(std::function<void()> /*break_device*/) {}
  };

  /// `observer` outlives the rank's work.
  explicit Progress(Observer* observer = nullptr) : observer_(observer) {}

  void tell_device(std::function<void()> break_device) {
    if (observer_ != nullptr) observer_->has_device(std::move(break_device));
  }
  /// True where an observer is told of every mark.
  bool is_watched() const { return observer_ != nullptr; }

  /// Whether the observer is left out for a while.
  void pause_observer(bool paused) { paused_ = paused; }

  void begin_step(int64_t step) { step_.store(step, std::memory_order_relaxed); }
  /// The rank begins with `operation`.
  void enter(Operation operation, int32_t layer = -1, std::span<float> data = {});
  /// It got further in its operation. Any thread may say so.
  void advance() { marks_.fetch_add(1, std::memory_order_relaxed); }
  void expect_layer_ns(int64_t ns) { layer_ns_.store(ns, std::memory_order_relaxed); }

  /// For Communicator::Call.
  void enter_call(const OpenCall& call, int64_t now_ns);
  void leave_call(int64_t now_ns);

  Position position() const;

 private:
  static constexpr int kNoCall = -1;

  void mark(int64_t now_ns);

  Observer* const observer_;
  bool paused_ = false;  ///< read and written by the rank's thread alone
  std::atomic<int64_t> marks_{0};
  std::atomic<int64_t> since_ns_{0};
  std::atomic<int64_t> step_{-1};
  std::atomic<int64_t> layer_ns_{0};
  std::atomic<int64_t> sequence_{0};
  std::atomic<int32_t> layer_{-1};
  std::atomic<int32_t> peer_{-1};
  std::atomic<int32_t> call_kind_{kNoCall};
  std::atomic<mesh::Axis> axis_{mesh::Axis::kControl};
  std::atomic<Operation> operation_{Operation::kStart};
};

}  // namespace fourfold::comm
