#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fourfold::serve {

/// Counts of values up to each bound, as Prometheus has them.
class Histogram {
 public:
  explicit Histogram(std::span<const double> bounds)
      : bounds_(bounds), counts_(bounds.size() + 1) {}
  /// Of values that somebody else has counted, between the bounds.
  Histogram(std::span<const double> bounds, std::span<const int64_t> counts, double sum)
      : bounds_(bounds), counts_(counts.begin(), counts.end()), sum_(sum) {}

  void observe(double value);

  std::span<const double> bounds() const { return bounds_; }
  /// Of values up to bounds()[i]; the last is that of all.
  int64_t cumulative(size_t i) const;
  double sum() const { return sum_; }

 private:
  std::span<const double> bounds_;
  std::vector<int64_t> counts_;
  double sum_ = 0;
};

/// `text` as it stands between the quotes of a label.
std::string label_text(std::string_view text);

/// One page of Prometheus' text format 0.0.4, family after family. Labels are written as
/// `name="value",…`.
class MetricsPage {
 public:
  /// `common`: labels behind those of every sample, but for plain ones.
  explicit MetricsPage(std::string common = {}) : common_(std::move(common)) {}

  void family(std::string_view name, std::string_view type, std::string_view help);
  void sample(std::string_view labels, double value) { line("", labels, common_, value); }
  void samples(std::string_view labels, const Histogram& histogram);
  /// Without the common labels.
  void plain(std::string_view labels, double value) { line("", labels, "", value); }
  std::string take() { return std::move(text_); }

 private:
  void line(std::string_view suffix, std::string_view labels, std::string_view common,
            double value);

  std::string common_;
  std::string name_;
  std::string text_;
};

}  // namespace fourfold::serve
