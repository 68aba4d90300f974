#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "verify/result.h"

namespace fourfold::verify {

/// One axis' communication of one run: means over ranks and repeats.
struct AxisCost {
  double seconds = 0;  ///< waiting included
  double wait_seconds = 0;
  double bytes = 0;
  double calls = 0;
  double share = 0;       ///< seconds over wall time
  double wait_share = 0;  ///< wait_seconds over wall time
};

/// Where a device's time went at one load point: means over ranks and repeats.
struct Figures {
  double busy = 0;            ///< seconds in operators over wall time
  std::optional<double> mfu;  ///< FLOPs of the operators over the peak of all devices
  std::optional<double> mbu;  ///< bytes the operators read over the read bandwidth of all devices
  std::map<mesh::Axis, AxisCost> comm;
  double other = 0;  ///< neither in operators nor in communication: front, scheduling, idle

  const AxisCost& axis(mesh::Axis axis) const;
};
Figures figures(const SchemeResult& scheme, const LoadResult& load);

/// Means over repeats of what the GPU's counters said.
backend::Activity mean_activity(const LoadResult& load);

/// How evenly the experts of one layer worked, over all repeats.
struct LayerExpertFigures {
  std::vector<int64_t> rows;     ///< that each expert computed
  double imbalance = 1;          ///< rows of the rank with the most over the mean rank; 1: even
  double distinct_per_step = 0;  ///< experts whose weights a rank reads in a step
};

/// How evenly experts worked at one load point, over all repeats.
struct ExpertFigures {
  double imbalance = 1;  ///< of all layers: the sum of each one's maximum over that of its means
  double distinct_per_step = 0;  ///< experts whose weights a rank reads in one layer of a step
  double zero_row_share = 0;     ///< of ranks' steps: their replica had no row, another one had
  std::string binds;             ///< what of the exchange holds the scheme up, in words
  std::map<int32_t, LayerExpertFigures> layers;
};
/// Nothing for a dense model.
std::optional<ExpertFigures> expert_figures(const LoadResult& load, const Figures& figures);

/// The axes that reports name, in their order, with their names.
const std::vector<std::pair<mesh::Axis, std::string>>& named_axes();

/// Output tokens per second and device over those of the baseline: at the same load, and at a load
/// that grows with the devices (the baseline's point is smaller by the ratio of devices). Nothing
/// where there is no such point.
std::optional<double> efficiency_same_load(const VerifyReport& report, const SchemeResult& scheme,
                                           const LoadPoint& point);
std::optional<double> efficiency_growing_load(const VerifyReport& report,
                                              const SchemeResult& scheme, const LoadPoint& point);

/// Schemes with figures at a point, in the report's order.
std::vector<const SchemeResult*> timed_at(const VerifyReport& report, const LoadPoint& point);

/// More devices' cores than this machine has, or several devices on its GPU: speeds are not those
/// of so many devices.
bool shares_cores(const VerifyReport& report, const mesh::ParallelConfig& scheme);

/// Who is best at one objective and who cannot be told from it.
struct Winner {
  const SchemeResult* scheme = nullptr;
  std::vector<std::string> tie;
  double value = 0;  ///< mean over repeats
  std::string unit;
  std::string limit;  ///< the resource that binds it, with its share; "" where nobody knows
};
/// "ttft", "tpot", "throughput", "goodput", "memory", "concurrency" -> winner at a point.
std::map<std::string, Winner> winners(const VerifyReport& report, const LoadPoint& point);

/// Name of a figure in reports and JSON -> the sentence that defines it: those of load::definitions
/// and of this file.
std::vector<std::pair<std::string, std::string>> definitions();

}  // namespace fourfold::verify
