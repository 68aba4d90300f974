#include "load/statistics.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace fourfold::load {
namespace {

/// Below the promised 5 %: the share counted in 2,000 rankings strays by 0.4 points around it.
constexpr double kFamilyError = 0.04;

double at_percentile(const std::vector<double>& sorted, double p) {
  const double at = p / 100.0 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

double mean(std::span<const double> values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_error(std::span<const double> values) {
  CHECK(values.size() > 1, "the standard error of {} values", values.size());
  const auto n = static_cast<double>(values.size());
  const double center = mean(values);
  double squares = 0;
  for (const double v : values) squares += (v - center) * (v - center);
  return std::sqrt(squares / (n - 1) / n);
}

double percentile(std::vector<double> values, double p) {
  CHECK(!values.empty() && p >= 0 && p <= 100, "percentile {} of {} values", p, values.size());
  std::sort(values.begin(), values.end());
  return at_percentile(values, p);
}

std::vector<double> quantiles_101(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  std::vector<double> out;
  for (int p = 0; p <= 100; ++p) out.push_back(at_percentile(values, p));
  return out;
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
  const boost::math::students_t t(static_cast<double>(values.size()) - 1);
  return boost::math::quantile(t, 0.975) * standard_error(values);
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

PairedDifference paired_difference(std::span<const double> a, std::span<const double> b) {
  CHECK(a.size() == b.size(), "unpaired repeats: {} and {}", a.size(), b.size());
  std::vector<double> differences;
  for (size_t r = 0; r < a.size(); ++r) differences.push_back(a[r] - b[r]);
  PairedDifference out{.mean = mean(differences), .ci95 = confidence_95(differences)};
  if (!out.ci95) return out;
  const double error = standard_error(differences);
  if (error > 0) {
    const boost::math::students_t t(static_cast<double>(differences.size()) - 1);
    out.p = 2 * boost::math::cdf(boost::math::complement(t, std::abs(out.mean) / error));
  } else {
    out.p = out.mean == 0 ? 1 : 0;
  }
  return out;
}

Ranking rank(const std::vector<std::vector<double>>& values, bool lower_is_better) {
  CHECK(!values.empty(), "nothing to rank");
  Ranking out;
  for (size_t i = 1; i < values.size(); ++i) {
    const double difference = mean(values[i]) - mean(values[out.best]);
    if (lower_is_better ? difference < 0 : difference > 0) out.best = i;
  }
  struct Pair {
    size_t a = 0;
    size_t b = 0;
    double p = 1;
  };
  std::vector<Pair> pairs;
  for (size_t a = 0; a < values.size(); ++a) {
    for (size_t b = a + 1; b < values.size(); ++b) {
      pairs.push_back({a, b, paired_difference(values[a], values[b]).p});
    }
  }
  std::sort(pairs.begin(), pairs.end(), [](const Pair& x, const Pair& y) { return x.p < y.p; });
  std::vector<bool> tied(values.size(), true);
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (pairs[i].p > kFamilyError / static_cast<double>(pairs.size() - i)) break;
    if (pairs[i].a == out.best) tied[pairs[i].b] = false;
    if (pairs[i].b == out.best) tied[pairs[i].a] = false;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (i != out.best && tied[i]) out.ties.push_back(i);
  }
  return out;
}

}  // namespace fourfold::load
