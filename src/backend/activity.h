#pragma once

#include <optional>

namespace fourfold::backend {

/// What devices' own counters say of a stretch of time, whatever program used them. Shares are of
/// 1, the mean over the devices; what one of them does not tell is not there.
struct Activity {
  std::optional<double> busy;         ///< some kernel ran
  std::optional<double> sm_active;    ///< multiprocessors that had work, of all
  std::optional<double> dram_active;  ///< of the memory's theoretical bandwidth
  std::optional<double> power_w;      ///< mean over time, of all together
};

/// Reads the counters of the devices that ranks run on.
class ActivityMeter {
 public:
  virtual ~ActivityMeter() = default;
  virtual void begin() = 0;
  /// Since begin().
  virtual Activity end() = 0;
};

}  // namespace fourfold::backend
