#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/philox.h"
#include "load/run.h"

namespace fourfold::load {

/// Simulated time: waiting runs what was planned for then, and nothing sleeps.
class SimulatedClock final : public WaitableClock {
 public:
  int64_t now_ns() const override { return now_ns_; }
  void wait_until(int64_t deadline_ns) override {
    while (!woken_ && !events_.empty() && events_.begin()->first <= deadline_ns) {
      const auto event = events_.extract(events_.begin());
      now_ns_ = std::max(now_ns_, event.key());
      event.mapped()();
    }
    if (!woken_) {
      CHECK(deadline_ns != kNever, "the simulation waits for nothing");
      now_ns_ = std::max(now_ns_, deadline_ns + oversleep_ns);
    }
    woken_ = false;
  }
  void wake() override { woken_ = true; }

  void at(int64_t time_ns, std::function<void()> what) {
    events_.emplace(time_ns, std::move(what));
  }
  /// What the caller does for so long.
  void spend_ns(int64_t ns) { now_ns_ += ns; }

  int64_t oversleep_ns = 0;  ///< by which a wait that ends by its deadline is late

 private:
  int64_t now_ns_ = 0;
  bool woken_ = false;
  std::multimap<int64_t, std::function<void()>> events_;
};

/// `places` requests are served at once, the others wait their turn. A request takes service(index)
/// ns, the first half of it for the first token, the rest for the others. Token t of request i is
/// 1000 i + t.
class SimulatedServer {
 public:
  using Service = std::function<int64_t(size_t index)>;

  SimulatedServer(SimulatedClock& clock, int places, Service service)
      : clock_(clock), free_places_(places), service_(std::move(service)) {}

  Submit submit() {
    return [this](engine::Request request, Sink sink) {
      waiting_.push_back({prompts.size(), request.max_new_tokens, std::move(sink)});
      prompts.push_back(std::move(request.prompt));
      most_outstanding = std::max(most_outstanding, ++outstanding_);
      serve();
      return base::Status();
    };
  }

  std::vector<std::vector<engine::TokenId>> prompts;  ///< as they came
  int most_outstanding = 0;

 private:
  struct Waiting {
    size_t index = 0;
    int32_t tokens = 0;
    Sink sink;
  };

  void serve() {
    while (free_places_ > 0 && !waiting_.empty()) {
      --free_places_;
      const Waiting next = std::move(waiting_.front());
      waiting_.pop_front();
      const int64_t half_ns = service_(next.index) / 2;
      for (int32_t t = 0; t < next.tokens; ++t) {
        const bool last = t + 1 == next.tokens;
        const int64_t rest_ns = next.tokens > 1 ? half_ns * t / (next.tokens - 1) : 0;
        clock_.at(clock_.now_ns() + half_ns + rest_ns, [this, next, t, last] {
          const auto token = static_cast<engine::TokenId>(1000 * next.index) + t;
          if (last) {
            ++free_places_;
            --outstanding_;
          }
          next.sink({.tokens = {&token, 1}, .finished = last, .now_ns = clock_.now_ns()});
          if (last) serve();
        });
      }
    }
  }

  SimulatedClock& clock_;
  int free_places_;
  Service service_;
  int outstanding_ = 0;
  std::deque<Waiting> waiting_;
};

/// A uniform number in (0, 1) by (seed, index, draw).
inline double uniform(uint64_t seed, uint64_t index, uint32_t draw = 0) {
  const auto bits = base::philox(
      seed, {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), draw, 77});
  return (static_cast<double>(bits[0]) + 0.5) * 0x1p-32;
}

}  // namespace fourfold::load
