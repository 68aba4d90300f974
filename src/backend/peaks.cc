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
constexpr int64_t kComputeSteps = 200'000;

/// Four times the last-level cache, so that what the threads come back to is long gone.
int64_t buffer_bytes(int threads) {
  const int64_t cache = std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), 0L);
  const int64_t wanted = std::clamp(4 * cache, 256 * kMiB, 1024 * kMiB);
  return base::round_up(wanted, threads * kReadChunk);
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

/// In 16 sums, which vectorise, and so that no addition waits for the last one.
void read_once(const uint64_t* begin, int64_t count) {
  std::array<uint64_t, 16> sums = {};
  for (int64_t i = 0; i < count; i += std::ssize(sums)) {
    for (size_t j = 0; j < sums.size(); ++j) sums[j] += begin[i + static_cast<int64_t>(j)];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  read_result.fetch_add(total, std::memory_order_relaxed);
}

}  // namespace

base::Result<Peaks> measure_peaks(ThreadPool& pool, double seconds,
                                  const std::function<double(int64_t steps)>& compute) {
  const int64_t threads = pool.threads();
  FF_ASSIGN(const tensor::Buffer buffer, tensor::allocate_host(buffer_bytes(pool.threads())));
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
  peaks.read_bytes_s = rate_of(pool, seconds / 2, [&](int64_t share, int64_t turn) {
    read_once(words + (share * share_chunks + turn % share_chunks) * kChunkWords, kChunkWords);
    return static_cast<double>(kReadChunk);
  });
  return peaks;
}

}  // namespace fourfold::backend
