#include "load/statistics.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace fourfold::load {

double mean(std::span<const double> values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double percentile(std::vector<double> values, double p) {
  CHECK(!values.empty() && p >= 0 && p <= 100, "percentile {} of {} values", p, values.size());
  std::sort(values.begin(), values.end());
  const double at = p / 100.0 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

std::optional<double> supported_percentile(const std::vector<double>& values, double p) {
  // The small tolerance keeps 100 / (100 - 99) = 100.00000000000001 from asking for 101 values.
  if (values.empty() || static_cast<double>(values.size()) + 1e-6 < 100.0 / (100.0 - p)) {
    return std::nullopt;
  }
  return percentile(values, p);
}

std::optional<double> confidence_95(std::span<const double> values) {
  if (values.size() < 2) return std::nullopt;
  const auto n = static_cast<double>(values.size());
  const double center = mean(values);
  double squares = 0;
  for (const double v : values) squares += (v - center) * (v - center);
  const double t = boost::math::quantile(boost::math::students_t(n - 1), 0.975);
  return t * std::sqrt(squares / (n - 1) / n);
}

Summary summarize(const std::vector<std::vector<double>>& repeats) {
  std::vector<double> all;
  std::vector<double> means;
  for (const std::vector<double>& repeat : repeats) {
    if (repeat.empty()) continue;
    all.insert(all.end(), repeat.begin(), repeat.end());
    means.push_back(mean(repeat));
  }
  return {.mean = all.empty() ? std::nullopt : std::optional(mean(all)),
          .p50 = supported_percentile(all, 50),
          .p90 = supported_percentile(all, 90),
          .p99 = supported_percentile(all, 99),
          .ci95 = confidence_95(means)};
}

Ranking rank(const std::vector<std::vector<double>>& values, bool lower_is_better) {
  CHECK(!values.empty(), "nothing to rank");
  Ranking out;
  for (size_t i = 1; i < values.size(); ++i) {
    const double difference = mean(values[i]) - mean(values[out.best]);
    if (lower_is_better ? difference < 0 : difference > 0) out.best = i;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (i == out.best) continue;
    CHECK(values[i].size() == values[out.best].size(), "unpaired repeats: {} and {}",
          values[i].size(), values[out.best].size());
    std::vector<double> differences;
    for (size_t r = 0; r < values[i].size(); ++r) {
      differences.push_back(values[i][r] - values[out.best][r]);
    }
    const std::optional<double> half_width = confidence_95(differences);
    if (!half_width || std::abs(mean(differences)) <= *half_width) out.ties.push_back(i);
  }
  return out;
}

}  // namespace fourfold::load
