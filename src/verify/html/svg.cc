#include "verify/html/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "verify/html/markup.h"

namespace fourfold::verify {
namespace {

/// The smallest of 1, 2, 2.5, 5, 10 times a power of ten that is at least `value`.
double round_up(double value) {
  const double power = std::pow(10, std::floor(std::log10(value)));
  for (const double factor : {1.0, 2.0, 2.5, 5.0}) {
    if (factor * power >= value * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

std::vector<double> log_ticks(const Scale& scale, const std::vector<double>& factors) {
  std::vector<double> out;
  const int first = static_cast<int>(std::floor(std::log10(scale.low)));
  const int last = static_cast<int>(std::ceil(std::log10(scale.high)));
  for (int exponent = first; exponent <= last; ++exponent) {
    for (const double factor : factors) {
      const double tick = factor * std::pow(10, exponent);
      if (tick >= scale.low && tick <= scale.high) out.push_back(tick);
    }
  }
  return out;
}

std::string tick_label(double value, const std::string& suffix) {
  if (value >= 1000) return format_number(value, Unit::kCount) + suffix;
  return fmt::format("{:.4g}{}", value, suffix);
}

}  // namespace

double Scale::fraction(double value) const {
  const double place = log ? (std::log(value) - std::log(low)) / (std::log(high) - std::log(low))
                           : (value - low) / (high - low);
  return std::clamp(place, 0.0, 1.0);
}

std::vector<double> Scale::ticks(int most) const {
  if (log) {
    const std::vector<double> fine = log_ticks(*this, {1, 2, 5});
    if (static_cast<int>(fine.size()) <= most) {
      return fine.size() > 2 ? fine : log_ticks(*this, {1, 1.5, 2, 3, 4, 5, 6, 8});
    }
    const std::vector<double> coarse = log_ticks(*this, {1, 3});
    return static_cast<int>(coarse.size()) <= most ? coarse : log_ticks(*this, {1});
  }
  const double step = round_up((high - low) / most);
  std::vector<double> out;
  for (int i = 0; low + i * step <= high * (1 + 1e-9); ++i) out.push_back(low + i * step);
  return out;
}

Scale linear_scale(double high) {
  if (!(high > 0)) return {};
  const double step = round_up(high / 5);
  return {.low = 0, .high = step * std::ceil(high / step - 1e-9)};
}

Scale scale_of(const std::vector<double>& values, double log_from) {
  if (values.empty()) return {};
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  if (*low <= 0 || *high <= log_from * *low) return linear_scale(*high * 1.04);
  return {.low = *low / 1.15, .high = *high * 1.15, .log = true};
}

std::string percent(double fraction) { return fmt::format("{:.4g}%", 100 * fraction); }

Points simplified(const Points& points, double tolerance) {
  Points out;
  for (size_t start = 0; start < points.size();) {
    out.push_back(points[start]);
    // The farthest end that a straight line reaches without passing any point by too much.
    size_t end = start + 1;
    double low = -std::numeric_limits<double>::infinity();
    double high = std::numeric_limits<double>::infinity();
    for (size_t i = start + 1; i < points.size(); ++i) {
      const double run = points[i].first - points[start].first;
      const double rise = points[i].second - points[start].second;
      if (run <= 0 || rise / run < low || rise / run > high) break;
      low = std::max(low, (rise - tolerance) / run);
      high = std::min(high, (rise + tolerance) / run);
      end = i;
    }
    start = end;
  }
  return out;
}

std::string path_data(const Points& points) {
  // Steps from point to point take fewer letters than places.
  std::string out;
  int64_t last_x = 0;
  int64_t last_y = 0;
  for (const auto& [x, y] : points) {
    const int64_t to_x = std::lround(1000 * x);
    const int64_t to_y = std::lround(1000 * (1 - y));
    out += fmt::format("{}{}{}{}", out.empty() ? "M" : "l", to_x - last_x, to_y < last_y ? "" : " ",
                       to_y - last_y);
    last_x = to_x;
    last_y = to_y;
  }
  return out;
}

std::string plot_box(std::string_view paths, std::string_view y, std::string_view h) {
  return fmt::format(
      "<svg y=\"{}\" width=\"100%\" height=\"{}\" viewBox=\"0 0 1000 1000\" "
      "preserveAspectRatio=\"none\">{}</svg>",
      y, h, paths);
}

std::string grid(const Axis& x, const Axis& y) {
  std::string out = "<g class=\"grid\" aria-hidden=\"true\">";
  for (const double tick : y.scale.ticks(y.most_ticks)) {
    const std::string place = percent(1 - y.scale.fraction(tick));
    out += fmt::format(
        "<line x2=\"100%\" y1=\"{0}\" y2=\"{0}\"/><text x=\"-8\" y=\"{0}\" dy=\".35em\" "
        "class=\"tick end\">{1}</text>",
        place, tick_label(tick, y.suffix));
  }
  for (const double tick : x.scale.ticks(x.most_ticks)) {
    const std::string place = percent(x.scale.fraction(tick));
    out += fmt::format(
        "<line x1=\"{0}\" x2=\"{0}\" y2=\"100%\"/><text x=\"{0}\" y=\"100%\" dy=\"18\" "
        "class=\"tick mid\">{1}</text>",
        place, tick_label(tick, x.suffix));
  }
  out += fmt::format("<text x=\"100%\" y=\"100%\" dy=\"36\" class=\"axis end\">{}</text>", x.title);
  out += fmt::format("<text x=\"-8\" y=\"-14\" class=\"axis\">{}</text></g>", y.title);
  return out;
}

std::string chart(std::string_view id, std::string_view kind, std::string_view title,
                  std::string_view description, std::string_view content) {
  return fmt::format(
      "<div class=\"chart {1}\"><svg role=\"img\" aria-labelledby=\"{0}-t {0}-d\">"
      "<title id=\"{0}-t\">{2}</title><desc id=\"{0}-d\">{3}</desc>{4}</svg></div>",
      id, kind, title, description, content);
}

std::string marker(size_t index, double x, double y, std::string_view hover_title) {
  return fmt::format("<g><use href=\"#m{}\" x=\"{}\" y=\"{}\"/>{}</g>", index % kSeriesStyles,
                     percent(x), percent(1 - y), hover_title);
}

std::string series_class(size_t index) {
  return fmt::format("s{}{}", index % kSeriesStyles, index < kSeriesStyles ? "" : " dashed");
}

}  // namespace fourfold::verify
