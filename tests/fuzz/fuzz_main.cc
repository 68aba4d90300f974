// Calls a target's check_input for each input of libFuzzer and holds it to the contract: decided
// within a second of processor time, in at most 64 MiB more than the input's own size. Both are
// counted for each input by itself, so a loaded machine and a sanitizer's shadow do not matter.
#include <sanitizer/allocator_interface.h>
#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {
namespace {

constexpr double kMaxSeconds = 1;
constexpr int64_t kMaxBytes = int64_t{64} << 20;

// Bytes of the heap that this thread holds, and the most it held since the input began.
thread_local int64_t held_bytes = 0;
thread_local int64_t peak_bytes = 0;

void count_malloc(const volatile void* pointer, size_t /*size*/) {
  held_bytes +=
      static_cast<int64_t>(__sanitizer_get_allocated_size(const_cast<const void*>(pointer)));
  peak_bytes = std::max(peak_bytes, held_bytes);
}

void count_free(const volatile void* pointer) {
  held_bytes -=
      static_cast<int64_t>(__sanitizer_get_allocated_size(const_cast<const void*>(pointer)));
}

double thread_seconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace

}  // namespace fourfold::fuzz

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  using namespace fourfold::fuzz;
  CHECK(__sanitizer_install_malloc_and_free_hooks(count_malloc, count_free) > 0,
        "no hook for allocations is left");
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fourfold::fuzz;
  const int64_t held_before = held_bytes;
  peak_bytes = held_bytes;
  const double begin = thread_seconds();
  check_input({reinterpret_cast<const char*>(data), size});
  const double seconds = thread_seconds() - begin;
  const int64_t bytes = peak_bytes - held_before;
  CHECK(seconds <= kMaxSeconds, "an input of {} bytes took {:.2f} s, at most {} are allowed", size,
        seconds, kMaxSeconds);
  CHECK(bytes <= kMaxBytes + static_cast<int64_t>(size),
        "an input of {} bytes took {} bytes of memory, at most {} more are allowed", size, bytes,
        kMaxBytes);
  return 0;
}
