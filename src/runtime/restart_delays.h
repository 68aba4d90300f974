#pragma once

#include <algorithm>

namespace fourfold::runtime {

/// How soon a group that failed is started again.
struct RestartOptions {
  double longest_delay_s = 30;
  double stable_s = 60;  ///< having lived for so long it has no history of failures
};

/// The delays before the starts of one group: 0, 1, 2, 4, ... seconds.
class RestartDelays {
 public:
  explicit RestartDelays(const RestartOptions& options) : options_(options) {}

  /// From a failure, or from a start that failed, to the next start. `lived_s`: how long the group
  /// was up before; 0 for a start that failed.
  double next_s(double lived_s) {
    if (lived_s >= options_.stable_s) delay_s_ = 0;
    const double delay_s = delay_s_;
    delay_s_ = std::min(std::max(1.0, 2 * delay_s), options_.longest_delay_s);
    return delay_s;
  }

 private:
  RestartOptions options_;
  double delay_s_ = 0;
};

}  // namespace fourfold::runtime
