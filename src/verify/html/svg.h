#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fourfold::verify {

/// A coordinate of a chart: values in [low, high], linear or logarithmic, to fractions of its
/// length.
struct Scale {
  double low = 0;
  double high = 1;
  bool log = false;

  double fraction(double value) const;
  /// At most about `most` round values within the scale.
  std::vector<double> ticks(int most) const;
};

/// From zero to a round value at or above `high`.
Scale linear_scale(double high);
/// From the smallest to the largest of `values` with a little room; logarithmic where they span
/// more than a factor of `log_from`, else from zero. Values must be positive for a logarithmic one.
Scale scale_of(const std::vector<double>& values, double log_from);

/// "43.21%", for attributes of SVG. Charts have no viewBox: their places are percentages of the box
/// that they get, so that text and lines keep their size at any width.
std::string percent(double fraction);

using Points = std::vector<std::pair<double, double>>;  ///< fractions: x from left, y from below

/// `points` without those that a straight line passes to within `tolerance`, a fraction of the
/// height.
Points simplified(const Points& points, double tolerance);

/// Path data in a box of 1000 x 1000, the view box of plot_box().
std::string path_data(const Points& points);

/// An inner <svg> stretched over the plot, or over a strip of it, that holds `paths`.
std::string plot_box(std::string_view paths, std::string_view y = "0", std::string_view h = "100%");

/// Grid lines and tick labels of both axes, and the names of the axes.
struct Axis {
  Scale scale;
  std::string title;
  int most_ticks = 6;
  std::string suffix = {};  ///< of each tick's label
};
std::string grid(const Axis& x, const Axis& y);

/// <svg role="img"> with title and description for those who do not see it. `id` is unique.
std::string chart(std::string_view id, std::string_view kind, std::string_view title,
                  std::string_view description, std::string_view content);

/// The marker of series `index`, with a text that shows on hover.
std::string marker(size_t index, double x, double y, std::string_view hover_title);

/// Colour classes of series `index`: "s3", and a dash pattern once the colours are used up.
std::string series_class(size_t index);
/// Number of marker shapes and of colours.
inline constexpr size_t kSeriesStyles = 8;

}  // namespace fourfold::verify
