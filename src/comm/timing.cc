#include "comm/timing.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "comm/local/local_world.h"
#include "comm/waiting.h"

namespace fourfold::comm {
namespace {

constexpr int kBatches = 15;

/// Microseconds of one run of `body`, over `runs` of them.
template <typename Body>
double time_us(int64_t runs, Body body) {
  const int64_t begin_ns = base::SteadyClock().now_ns();
  for (int64_t i = 0; i < runs; ++i) body();
  return base::seconds_between(begin_ns, base::SteadyClock().now_ns()) * 1e6 /
         static_cast<double>(runs);
}

std::vector<int> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> out;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return out;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) out.push_back(cpu);
  }
  return out;
}

void pin_this_thread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  // Without it the figures are worse, not wrong.
  static_cast<void>(pthread_setaffinity_np(pthread_self(), sizeof set, &set));
}

/// Calls in one batch such that kBatches of them take `seconds`; the same on all ranks.
int64_t calls_per_batch(Communicator& comm, std::span<float> data, Wire wire, double seconds) {
  constexpr int64_t kTrial = 10;
  const double call_us = time_us(kTrial, [&] { comm.all_reduce_sum(data, wire); });
  int64_t calls = std::clamp<int64_t>(
      static_cast<int64_t>(seconds * 1e6 / kBatches / std::max(call_us, 0.01)), 1, 100'000);
  comm.broadcast(std::as_writable_bytes(std::span(&calls, 1)), 0);
  return calls;
}

CommTiming time_size(Communicator& comm, int64_t bytes, Wire wire, double seconds) {
  CHECK(bytes >= 4, "an all-reduce of {} bytes", bytes);
  std::vector<float> data(static_cast<size_t>(bytes) / sizeof(float), 0.0F);
  const int64_t calls = calls_per_batch(comm, data, wire, seconds);
  const CommStats before = comm.stats();
  std::vector<double> batches;
  for (int i = 0; i < kBatches; ++i) {
    batches.push_back(time_us(calls, [&] { comm.all_reduce_sum(data, wire); }));
  }
  const CommStats& after = comm.stats();
  std::sort(batches.begin(), batches.end());
  return {.bytes = bytes,
          .calls = calls * kBatches,
          .best_us = batches.front(),
          .median_us = batches[batches.size() / 2],
          .wait_share = (after.wait_seconds - before.wait_seconds) /
                        std::max(after.seconds - before.seconds, 1e-12),
          .ceiling_us = 0};
}

/// From a store of one thread until another one on another core sees it: half of a round trip, the
/// best of several. With one core it is a switch between the threads.
double flag_hop_us(std::span<const int> cpus) {
  constexpr int kTrips = 2000;
  alignas(64) std::atomic<int> ping{0};
  alignas(64) std::atomic<int> pong{0};
  const auto await = [](const std::atomic<int>& flag, int value) {
    // The other thread may need this core.
    for (int looks = 1; flag.load(std::memory_order_acquire) != value; ++looks) {
      if (looks % 4096 == 0) std::this_thread::yield();
    }
  };
  const auto on_core = [&](size_t index) {
    if (cpus.size() >= 2) pin_this_thread(cpus[index]);
  };
  double best_us = 0;
  std::thread answering([&] {
    on_core(1);
    for (int i = 1; i <= kBatches * kTrips; ++i) {
      await(ping, i);
      pong.store(i, std::memory_order_release);
    }
  });
  std::thread asking([&] {
    on_core(0);
    int i = 0;
    for (int batch = 0; batch < kBatches; ++batch) {
      const double us = time_us(kTrips, [&] {
        ping.store(++i, std::memory_order_release);
        await(pong, i);
      });
      best_us = batch == 0 ? us : std::min(best_us, us);
    }
  });
  answering.join();
  asking.join();
  return best_us / 2;
}

/// One thread copies `bytes` of fp32 onto the wire and from it.
double wire_copies_us(int64_t bytes, Wire wire) {
  constexpr int64_t kBatchBytes = int64_t{4} << 20;
  std::vector<float> data(static_cast<size_t>(bytes) / sizeof(float), 0.0F);
  std::vector<std::byte> shown(static_cast<size_t>(bytes));
  const auto n = static_cast<int64_t>(data.size());
  double best_us = 0;
  for (int batch = 0; batch < kBatches; ++batch) {
    const double us = time_us(std::max<int64_t>(1, kBatchBytes / bytes), [&] {
      to_wire(wire, data.data(), shown.data(), n);
      from_wire(wire, shown.data(), data.data(), n);
    });
    best_us = batch == 0 ? us : std::min(best_us, us);
  }
  return best_us;
}

}  // namespace

std::vector<CommTiming> time_all_reduce(int ranks, std::span<const int64_t> sizes, Wire wire,
                                        double seconds) {
  const std::vector<int> cpus = usable_cpus();
  const bool pinned = static_cast<size_t>(ranks) <= cpus.size();
  const double hop_us = flag_hop_us(cpus);
  LocalWorld world(ranks, pinned ? Waiting::kSpin : Waiting::kSleep);
  std::vector<CommTiming> out;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      if (pinned) pin_this_thread(cpus[static_cast<size_t>(rank)]);
      ask_for_prompt_wakeups();
      const auto comm = world.communicator(rank);
      for (const int64_t bytes : sizes) {
        const CommTiming timing = time_size(*comm, bytes, wire, seconds);
        if (rank == 0) {
          out.push_back(timing);
          out.back().ceiling_us = hop_us + wire_copies_us(bytes, wire);
        }
        comm->barrier();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return out;
}

}  // namespace fourfold::comm
