#pragma once

#include "tensor/buffer.h"

namespace fourfold::model {

/// Where the intermediates of a step live: `arena` in the backend's memory, `host` in the host's.
/// One arena where these are one memory (Ops::in_host_memory).
struct StepMemory {
  // NOLINTNEXTLINE(google-explicit-constructor): an arena of host memory is both.
  StepMemory(tensor::Arena& both) : arena(both), host(both) {}
  StepMemory(tensor::Arena& device_arena, tensor::Arena& host_arena)
      : arena(device_arena), host(host_arena) {}

  tensor::Arena& arena;
  tensor::Arena& host;
};

/// Gives back at its end what was allocated during its life.
class StepScope {
 public:
  explicit StepScope(StepMemory memory)
      : memory_(memory), mark_(memory.arena.mark()), host_mark_(memory.host.mark()) {}
  ~StepScope() {
    memory_.host.release_to(host_mark_);
    memory_.arena.release_to(mark_);
  }
  StepScope(const StepScope&) = delete;
  StepScope& operator=(const StepScope&) = delete;

 private:
  StepMemory memory_;
  int64_t mark_;
  int64_t host_mark_;
};

}  // namespace fourfold::model
