#include "measure/collectives.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "base/clock.h"

namespace fourfold::measure {
namespace {

/// Calls of one sample: enough bytes to take some milliseconds, the same on every rank.
int64_t calls_of(int64_t bytes) {
  constexpr int64_t kBytes = int64_t{32} << 20;
  return std::clamp(kBytes / std::max(bytes, int64_t{1}), int64_t{8}, int64_t{2000});
}

class Collectives {
 public:
  Collectives(comm::Communicator& group, const CollectiveOptions& options, std::string how)
      : group_(group), options_(options), how_(std::move(how)) {}

  std::vector<Figure> run() {
    for (const int64_t bytes : options_.sizes) measure_size(bytes);
    measure("barrier_us", 0, [&] { group_.barrier(); });
    return std::move(figures_);
  }

 private:
  void measure_size(int64_t bytes) {
    const auto size = static_cast<size_t>(bytes);
    std::vector<float> sum(size / sizeof(float), 1.0F);
    std::vector<std::byte> part(size);
    std::vector<std::byte> whole(size * static_cast<size_t>(group_.size()));
    measure("all_reduce_us " + size_name(bytes), bytes,
            [&] { group_.all_reduce_sum(sum, options_.wire); });
    measure("all_gather_us " + size_name(bytes), std::ssize(whole),
            [&] { group_.all_gather(part, whole); });
    // Ranks 2 and up have no part in it and wait at the next barrier.
    measure(
        "send_recv_us " + size_name(bytes), bytes,
        [&] {
          if (group_.rank() == 0) {
            group_.send(part, 1);
            group_.recv(part, 1);
          } else if (group_.rank() == 1) {
            group_.recv(part, 0);
            group_.send(part, 0);
          }
        },
        /*messages=*/2);
  }

  /// Times `call`; `bytes` are the least that one rank has to copy for it.
  void measure(const std::string& name, int64_t bytes, const std::function<void()>& call,
               int messages = 1) {
    Figure figure{.name = name + " " + how_, .unit = "us", .better = Better::kLower};
    if (bytes > 0) figure.limit = "memory copy";
    const int64_t calls = calls_of(bytes);
    for (int64_t i = 0; i < std::min(calls, int64_t{50}); ++i) call();
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      Sample sample{.value = mean_us(calls, call) / messages};
      if (bytes > 0) sample.ceiling = copy_us(bytes, calls);
      figure.samples.push_back(sample);
    }
    figures_.push_back(std::move(figure));
  }

  double mean_us(int64_t calls, const std::function<void()>& call) {
    group_.barrier();
    const int64_t begin_ns = clock_.now_ns();
    for (int64_t i = 0; i < calls; ++i) call();
    return static_cast<double>(clock_.now_ns() - begin_ns) / 1e3 / static_cast<double>(calls);
  }

  double copy_us(int64_t bytes, int64_t calls) {
    const auto size = static_cast<size_t>(bytes);
    from_.resize(std::max(from_.size(), size), std::byte{1});
    to_.resize(std::max(to_.size(), size));
    return mean_us(calls, [&] {
      std::memcpy(to_.data(), from_.data(), size);
      // The compiler must not see that nobody reads what was copied.
      __asm__ volatile("" : : "r"(to_.data()) : "memory");
    });
  }

  comm::Communicator& group_;
  const CollectiveOptions& options_;
  std::string how_;
  base::SteadyClock clock_;
  std::vector<std::byte> from_;
  std::vector<std::byte> to_;
  std::vector<Figure> figures_;
};

}  // namespace

std::string size_name(int64_t bytes) {
  constexpr int64_t kKiB = 1024;
  if (bytes % (kKiB * kKiB) == 0) return fmt::format("{}MiB", bytes / (kKiB * kKiB));
  return bytes % kKiB == 0 ? fmt::format("{}KiB", bytes / kKiB) : fmt::format("{}B", bytes);
}

std::vector<Figure> measure_collectives(comm::Communicator& group, const std::string& how,
                                        const CollectiveOptions& options) {
  return Collectives(group, options, how).run();
}

}  // namespace fourfold::measure
