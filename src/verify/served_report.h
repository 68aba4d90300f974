#pragma once

#include <string>

#include "verify/result.h"

namespace fourfold::verify {

/// The terminal report of engines that were measured over HTTP: how they started and whether their
/// answers agree, one table for each load point with its winners, engines side by side, what is not
/// measured and why, the definitions.
std::string served_text(const VerifyReport& report);

/// How often more output tokens/s the first engine gave than the second with one scheme at one
/// point, paired by repeat.
struct EngineRatio {
  std::string scheme;
  std::string first;
  std::string second;
  load::Summary ratio;
};
/// For each later engine and each scheme that it and the first engine ran.
std::vector<EngineRatio> engine_ratios(const VerifyReport& report, const LoadPoint& point);

}  // namespace fourfold::verify
