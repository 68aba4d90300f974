#include "comm/progress.h"

#include <array>

#include "base/clock.h"

namespace fourfold::comm {

std::string_view name_of(Operation operation) {
  constexpr std::array<std::string_view, kOperations> kNames = {
      "start", "meet",      "load", "prepare", "idle",    "measure", "inputs",
      "embed", "attention", "mlp",  "route",   "experts", "head",    "sample"};
  return kNames.at(static_cast<size_t>(operation));
}

std::string_view name_of(CallKind kind) {
  constexpr std::array<std::string_view, kCallKinds> kNames = {
      "all-reduce", "all-gather", "reduce-scatter", "all-to-all",
      "broadcast",  "barrier",    "send",           "recv"};
  return kNames.at(static_cast<size_t>(kind));
}

void Progress::mark(int64_t now_ns) {
  since_ns_.store(now_ns, std::memory_order_relaxed);
  advance();
}

void Progress::enter(Operation operation, int32_t layer, std::span<float> data) {
  operation_.store(operation, std::memory_order_relaxed);
  layer_.store(layer, std::memory_order_relaxed);
  mark(base::SteadyClock().now_ns());
  if (observer_ != nullptr && !paused_) observer_->at(position(), data);
}

void Progress::enter_call(const OpenCall& call, int64_t now_ns) {
  sequence_.store(call.sequence, std::memory_order_relaxed);
  peer_.store(call.peer, std::memory_order_relaxed);
  axis_.store(call.axis, std::memory_order_relaxed);
  call_kind_.store(static_cast<int32_t>(call.kind), std::memory_order_relaxed);
  mark(now_ns);
  if (observer_ != nullptr && !paused_) observer_->at(position(), {});
}

void Progress::leave_call(int64_t now_ns) {
  call_kind_.store(kNoCall, std::memory_order_relaxed);
  mark(now_ns);
}

Position Progress::position() const {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  Position out{.marks = marks_.load(kRelaxed),
               .age_ns = 0,
               .step = step_.load(kRelaxed),
               .layer = layer_.load(kRelaxed),
               .layer_ns = layer_ns_.load(kRelaxed),
               .operation = operation_.load(kRelaxed),
               .call = std::nullopt};
  const int64_t since_ns = since_ns_.load(kRelaxed);
  if (since_ns > 0) out.age_ns = base::SteadyClock().now_ns() - since_ns;
  if (const int32_t kind = call_kind_.load(kRelaxed); kind != kNoCall) {
    out.call = {.kind = static_cast<CallKind>(kind),
                .axis = axis_.load(kRelaxed),
                .sequence = sequence_.load(kRelaxed),
                .peer = peer_.load(kRelaxed)};
  }
  return out;
}

}  // namespace fourfold::comm
