#pragma once

#include <atomic>
#include <cstdint>

#include "comm/waiting.h"

namespace fourfold::comm {

/// A counter in memory that threads or processes share and on which they can sleep. Its lowest bit
/// says that the group was aborted.
class alignas(64) Signal {
 public:
  static bool aborted(uint32_t value) { return (value & 1) != 0; }

  uint32_t load() const { return value_.load(std::memory_order_acquire); }

  /// Changes the value and wakes everybody who waits; what this thread wrote before is visible to
  /// them.
  void advance();
  /// Sets the abort bit for good and wakes everybody.
  void abort();

  /// Waits until the value is not `seen` any more; returns the new one.
  uint32_t wait_change(uint32_t seen, Waiting waiting);

 private:
  uint32_t spin(uint32_t seen) const;
  void wake_sleepers();

  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
};
static_assert(std::atomic<uint32_t>::is_always_lock_free, "processes share it");

}  // namespace fourfold::comm
