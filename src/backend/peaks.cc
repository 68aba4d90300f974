#include "backend/peaks.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "base/clock.h"
#include "base/sizes.h"
#include "tensor/buffer.h"

namespace fourfold::backend {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kReadChunk = 4 * kMiB;  // between two looks at the clock
constexpr int64_t kPrefetchWords = 256;   // 2 KiB, as far ahead as matmul looks
constexpr int64_t kComputeSteps = 200'000;

/// Of all sharers together four times the last-level cache, so that what the threads come back to
/// is long gone; never so much that measuring is a danger to the machine.
int64_t buffer_bytes(int threads, int sharers) {
  const int64_t cache = std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), 0L);
  const int64_t wanted = std::clamp(4 * cache, 256 * kMiB, 1024 * kMiB) / sharers;
  return base::round_up(std::max(wanted, 64 * kMiB), threads * kReadChunk);
}

/// Calls work() again and again on every thread for `seconds` and adds up what it returns, per
/// second and over the threads.
template <typename Work>
double rate_of(ThreadPool& pool, double seconds, const Work& work) {
  const base::SteadyClock clock;
  std::vector<double> rates(static_cast<size_t>(pool.threads()));
  pool.parallel_for(pool.threads(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t share = begin; share < end; ++share) {
      const int64_t start = clock.now_ns();
      double done = 0;
      double elapsed = 0;
      for (int64_t turn = 0; elapsed < seconds; ++turn) {
        done += work(share, turn);
        elapsed = base::seconds_between(start, clock.now_ns());
      }
      rates[static_cast<size_t>(share)] = done / elapsed;
    }
  });
  double total = 0;
  for (const double rate : rates) total += rate;
  return total;
}

/// Keeps the compiler from leaving out what nobody looks at.
std::atomic<uint64_t> read_result;

/// In 16 sums, which vectorise, and so that no addition waits for the last one. `ahead` words are
/// asked for before they are read; 0: the processor sees by itself what comes next.
void read_once(const uint64_t* begin, int64_t count, int64_t ahead) {
  std::array<uint64_t, 16> sums = {};
  constexpr int64_t kLineWords = 8;
  for (int64_t i = 0; i < count; i += std::ssize(sums)) {
    if (ahead > 0) {
      __builtin_prefetch(begin + i + ahead);
      __builtin_prefetch(begin + i + ahead + kLineWords);
    }
    for (size_t j = 0; j < sums.size(); ++j) sums[j] += begin[i + static_cast<int64_t>(j)];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  read_result.fetch_add(total, std::memory_order_relaxed);
}

}  // namespace

base::Result<Peaks> measure_peaks(ThreadPool& pool, double seconds, int sharers,
                                  const std::function<double(int64_t steps)>& compute) {
  const int64_t threads = pool.threads();
  FF_ASSIGN(const tensor::Buffer buffer,
            tensor::allocate_host(buffer_bytes(pool.threads(), sharers)));
  auto* words = static_cast<uint64_t*>(buffer.data());
  constexpr int64_t kChunkWords = kReadChunk / 8;
  const int64_t share_chunks = buffer.bytes() / kReadChunk / threads;
  // Written, not only allocated: the system backs untouched memory by one page of zeros.
  pool.parallel_for(threads * share_chunks, 1, [&](int64_t begin, int64_t end, int) {
    std::fill(words + begin * kChunkWords, words + end * kChunkWords, uint64_t{0x3c003c003c003c00});
  });
  Peaks peaks;
  peaks.matmul_flop_s =
      rate_of(pool, seconds / 2, [&](int64_t, int64_t) { return compute(kComputeSteps); });
  // Some processors reach their bandwidth only if they are told what comes next, others lose by it.
  for (const int64_t ahead : {int64_t{0}, kPrefetchWords}) {
    const double rate = rate_of(pool, seconds / 4, [&](int64_t share, int64_t turn) {
      read_once(words + (share * share_chunks + turn % share_chunks) * kChunkWords, kChunkWords,
                ahead);
      return static_cast<double>(kReadChunk);
    });
    peaks.read_bytes_s = std::max(peaks.read_bytes_s, rate);
  }
  return peaks;
}

}  // namespace fourfold::backend
