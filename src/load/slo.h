#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fourfold::load {

/// A service level: bounds that a request has to keep to be good.
struct Slo {
  std::optional<double> ttft_ms;
  std::optional<double> tpot_ms;
  std::optional<double> e2e_ms;
  /// A run meets the service level if this percentile of each bounded metric keeps its bound.
  double percentile = 90;

  bool empty() const { return !ttft_ms && !tpot_ms && !e2e_ms; }
  /// Whether one request is good. `tpot_ms` is 0 for one of a single token, as vLLM counts it.
  bool good(double ttft, double tpot, double e2e) const {
    return ttft <= ttft_ms.value_or(ttft) && tpot <= tpot_ms.value_or(tpot) &&
           e2e <= e2e_ms.value_or(e2e);
  }
  bool operator==(const Slo&) const = default;
};

/// Reads "ttft=500ms,tpot=50ms,e2e=10s,p99": bounds with a unit (us, ms, s), each at most once and
/// at least one, and optionally the percentile (p50 to p99.9). Errors say what is wrong with which
/// part.
base::Result<Slo> parse_slo(std::string_view text);
/// The same back, in milliseconds.
std::string to_string(const Slo& slo);

}  // namespace fourfold::load
