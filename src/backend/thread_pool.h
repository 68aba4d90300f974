#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

namespace fourfold::backend {

/// The threads of one rank. One thread at a time may call it, and takes part in the work as thread
/// 0.
///
/// Idle workers spin for some tens of microseconds, about the gap between two operators, and then
/// sleep: ranks may outnumber cores, and a waiting rank must not take the core of a working one.
class ThreadPool {
 public:
  /// `threads` in all, the caller included. With `cpus` (one for each thread) they are pinned, the
  /// constructing thread too; a CPU that this process may not use is logged and left alone.
  ThreadPool(int threads, std::span<const int> cpus);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// body(begin, end, thread) over [0, count) in ranges of at most `grain`, each range once, thread
  /// in [0, threads()). Which thread gets which range is not fixed. Up to `grain` items run on the
  /// caller alone. Returns when all is done.
  template <typename Body>
  void parallel_for(int64_t count, int64_t grain, const Body& body) {
    if (count <= grain || workers_.empty()) {
      if (count > 0) body(int64_t{0}, count, 0);
      return;
    }
    job_ = {&body, count, grain, [](const void* b, int64_t begin, int64_t end, int thread) {
              (*static_cast<const Body*>(b))(begin, end, thread);
            }};
    run();
  }

 private:
  struct Job {
    const void* body = nullptr;
    int64_t count = 0;
    int64_t grain = 1;
    void (*call)(const void* body, int64_t begin, int64_t end, int thread) = nullptr;
  };

  void run();
  void take_ranges(int thread);
  void serve(int thread);

  // job_ and stop_ are written before generation_ is raised and read after it was seen to rise.
  Job job_;
  bool stop_ = false;
  alignas(64) std::atomic<uint32_t> generation_ = 0;
  alignas(64) std::atomic<int64_t> next_ = 0;
  alignas(64) std::atomic<uint32_t> working_ = 0;  ///< workers that have not finished this job
  std::vector<std::thread> workers_;
};

}  // namespace fourfold::backend
