#include "comm/shared/signal.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

#include "base/clock.h"

namespace fourfold::comm {
namespace {

// A few times what it takes to put a thread to sleep and to wake it on an idle core.
constexpr int64_t kSpinNs = 100'000;
constexpr int kLooksPerClockRead = 16;

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

/// The value once it is not `seen` any more, or `seen` if that takes long.
uint32_t Signal::spin(uint32_t seen) const {
  const int64_t begin_ns = base::SteadyClock().now_ns();
  do {
    for (int i = 0; i < kLooksPerClockRead; ++i) {
      if (const uint32_t value = load(); value != seen) return value;
      _mm_pause();
    }
  } while (base::SteadyClock().now_ns() - begin_ns < kSpinNs);
  return seen;
}

uint32_t Signal::wait_change(uint32_t seen, Waiting waiting) {
  uint32_t value = waiting == Waiting::kSpin ? spin(seen) : load();
  if (value != seen) return value;
  sleepers_.fetch_add(1);
  value = value_.load();
  while (value == seen) {
    futex(&value_, FUTEX_WAIT, seen);
    value = value_.load();
  }
  sleepers_.fetch_sub(1);
  return value;
}

}  // namespace fourfold::comm
