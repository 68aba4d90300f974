#include "serve/metrics_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fourfold::serve {
namespace {

/// A number as Python writes a float, which is how the labels "le" are compared.
std::string number(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? fmt::format("{:.1f}", value)
                                                              : fmt::format("{}", value);
}

std::string joined(std::string_view labels, std::string_view more) {
  return fmt::format("{}{}{}", labels, labels.empty() || more.empty() ? "" : ",", more);
}

}  // namespace

void Histogram::observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  ++counts_[static_cast<size_t>(bucket)];
  sum_ += value;
}

int64_t Histogram::cumulative(size_t i) const {
  return std::accumulate(counts_.begin(), counts_.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                         int64_t{0});
}

std::string label_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return out;
}

void MetricsPage::family(std::string_view name, std::string_view type, std::string_view help) {
  name_ = name;
  text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

void MetricsPage::samples(std::string_view labels, const Histogram& histogram) {
  const size_t bounds = histogram.bounds().size();
  for (size_t i = 0; i <= bounds; ++i) {
    const std::string le = i == bounds ? "+Inf" : number(histogram.bounds()[i]);
    line("_bucket", joined(labels, fmt::format("le=\"{}\"", le)), common_,
         static_cast<double>(histogram.cumulative(i)));
  }
  line("_count", labels, common_, static_cast<double>(histogram.cumulative(bounds)));
  line("_sum", labels, common_, histogram.sum());
}

void MetricsPage::line(std::string_view suffix, std::string_view labels, std::string_view common,
                       double value) {
  const std::string all = joined(labels, common);
  text_ += all.empty() ? fmt::format("{}{} {}\n", name_, suffix, number(value))
                       : fmt::format("{}{}{{{}}} {}\n", name_, suffix, all, number(value));
}

}  // namespace fourfold::serve
