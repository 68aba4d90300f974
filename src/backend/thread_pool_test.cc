#include "backend/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <set>
#include <vector>

namespace fourfold::backend {
namespace {

TEST(ThreadPool, CoversEveryIndexOnce) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads, {});
    for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 64}) {
        std::vector<int> seen(static_cast<size_t>(count), 0);
        pool.parallel_for(count, grain, [&](int64_t begin, int64_t end, int thread) {
          EXPECT_GE(thread, 0);
          EXPECT_LT(thread, threads);
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        EXPECT_EQ(seen, std::vector<int>(static_cast<size_t>(count), 1)) << count << "/" << grain;
      }
    }
  }
}

TEST(ThreadPool, HandsWritesOfOneJobToTheNext) {
  ThreadPool pool(3, {});
  std::vector<int64_t> values(257, 0);
  const int64_t n = static_cast<int64_t>(values.size());
  for (int round = 1; round <= 2000; ++round) {
    pool.parallel_for(n, 16, [&](int64_t begin, int64_t end, int) {
      // Reads what other threads wrote a round ago.
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += round;
    });
  }
  EXPECT_EQ(values, std::vector<int64_t>(values.size(), int64_t{2000} * 2001 / 2));
}

TEST(ThreadPool, UsesEveryThreadWhenTheyMustMeet) {
  ThreadPool pool(3, {});
  std::atomic<int> arrived = 0;
  std::atomic<uint32_t> threads = 0;
  // Every range waits for all three, so three threads must be at it together.
  pool.parallel_for(3, 1, [&](int64_t, int64_t, int thread) {
    threads |= 1u << thread;
    arrived.fetch_add(1);
    while (arrived.load() < 3) std::this_thread::yield();
  });
  EXPECT_EQ(threads.load(), 7u);
}

TEST(ThreadPool, RunsSmallJobsOnTheCaller) {
  ThreadPool pool(3, {});
  const auto caller = std::this_thread::get_id();
  pool.parallel_for(8, 8, [&](int64_t begin, int64_t end, int thread) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 8);
    EXPECT_EQ(thread, 0);
  });
}

}  // namespace
}  // namespace fourfold::backend
