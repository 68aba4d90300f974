#include "comm/shared/signal.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

namespace fourfold::comm {
namespace {

constexpr int kSpins = 200;  // a few microseconds: a peer that runs on another core
constexpr int kYields = 50;  // a peer that waits for this core

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

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
  for (int i = 0; i < kSpins + kYields; ++i) {
    const uint32_t value = load();
    if (value != seen) return value;
    i < kSpins ? pause_core() : static_cast<void>(sched_yield());
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
