#pragma once

#include <algorithm>
#include <cstdint>

namespace fourfold::route {

/// How many requests may be sent again: a fifth of all, and kReserve at first. So replicas that
/// fail are not buried under retries. What was not needed is kept, up to kMost.
class RetryBudget {
 public:
  static constexpr int64_t kReserve = 10;
  static constexpr int64_t kMost = 1000;

  void count_request() { fifths_ = std::min(fifths_ + 1, 5 * kMost); }
  /// False: there is none left.
  bool take() {
    if (fifths_ < 5) return false;
    fifths_ -= 5;
    return true;
  }

 private:
  int64_t fifths_ = 5 * kReserve;
};

}  // namespace fourfold::route
