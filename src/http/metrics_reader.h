#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fourfold::http {

/// One line of a page in Prometheus' text format 0.0.4; it lives as long as the page.
struct MetricSample {
  std::string_view name;
  std::string_view labels;  ///< as written between the braces
  double value = 0;         ///< perhaps infinite, never NaN

  /// The value of a label; none if the sample does not have it.
  std::optional<std::string> label(std::string_view label_name) const;
};

/// The samples of a page in its order, without timestamps. Comments and what is no sample are left
/// out.
std::vector<MetricSample> read_metrics(std::string_view page);

}  // namespace fourfold::http
