#include "comm/shared/signal.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

namespace fourfold::comm {
namespace {

// Yielding first costs nothing where a rank has a core to itself, and is what lets its peers arrive
// where ranks outnumber cores; a pause loop before it would only burn their time. About 50
// microseconds of an otherwise idle core.
constexpr int kYields = 100;

// std::atomic::wait would use a futex private to the process.
void futex(std::atomic<uint32_t>* word, int operation, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, nullptr, nullptr, 0);
}

}  // namespace

void Signal::advance() {
  value_.fetch_add(2);
  wake_sleepers();
}

void Signal::abort() {
  value_.fetch_or(1);
  wake_sleepers();
}

// No wake-up is lost: the value and the count of sleepers are both read and written in one total
// order, so either we see the sleeper here, or the kernel sees the new value and lets nobody sleep.
void Signal::wake_sleepers() {
  if (sleepers_.load() > 0) futex(&value_, FUTEX_WAKE, INT_MAX);
}

uint32_t Signal::wait_change(uint32_t seen) {
  for (int i = 0; i < kYields; ++i) {
    const uint32_t value = load();
    if (value != seen) return value;
    sched_yield();
  }
  sleepers_.fetch_add(1);
  uint32_t value = value_.load();
  while (value == seen) {
    futex(&value_, FUTEX_WAIT, seen);
    value = value_.load();
  }
  sleepers_.fetch_sub(1);
  return value;
}

}  // namespace fourfold::comm
