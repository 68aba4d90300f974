#include "backend/thread_pool.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <system_error>

#include "base/check.h"
#include "base/log.h"

namespace fourfold::backend {
namespace {

constexpr int kSpins = 1000;

/// Returns when `value` is no longer `old`.
uint32_t wait_until_not(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    const uint32_t now = value.load(std::memory_order_acquire);
    if (now != old) return now;
    _mm_pause();
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

void pin_this_thread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  const int error = pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
  if (error != 0) spdlog::warn("cannot pin a thread to CPU {}: {}", cpu, std::strerror(error));
}

}  // namespace

ThreadPool::ThreadPool(int threads, std::span<const int> cpus) {
  CHECK(threads >= 1, "a pool of {} threads", threads);
  CHECK(cpus.empty() || static_cast<int>(cpus.size()) == threads, "{} CPUs for {} threads",
        cpus.size(), threads);
  if (!cpus.empty()) pin_this_thread(cpus[0]);
  const std::vector<int> pins(cpus.begin(), cpus.end());
  for (int thread = 1; thread < threads; ++thread) {
    try {
      workers_.emplace_back([this, thread, pins] {
        if (!pins.empty()) pin_this_thread(pins[static_cast<size_t>(thread)]);
        serve(thread);
      });
    } catch (const std::system_error& error) {
      CHECK(false, "cannot start thread {} of {}: {}", thread, threads, error.what());
    }
  }
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run() {
  next_.store(0, std::memory_order_relaxed);
  working_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  take_ranges(0);
  uint32_t working = working_.load(std::memory_order_acquire);
  while (working != 0) working = wait_until_not(working_, working);
}

void ThreadPool::take_ranges(int thread) {
  for (;;) {
    const int64_t begin = next_.fetch_add(job_.grain, std::memory_order_relaxed);
    if (begin >= job_.count) return;
    job_.call(job_.body, begin, std::min(begin + job_.grain, job_.count), thread);
  }
}

void ThreadPool::serve(int thread) {
  uint32_t seen = 0;
  for (;;) {
    seen = wait_until_not(generation_, seen);
    if (stop_) return;
    take_ranges(thread);
    if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) working_.notify_one();
  }
}

}  // namespace fourfold::backend
