// Sections that are curves: the trade-off between speed and throughput, and the latencies.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "verify/html/page.h"
#include "verify/html/svg.h"

namespace fourfold::verify {
namespace {

constexpr std::string_view kUser = "metrics/output_tok_s_user/mean";
constexpr std::string_view kDevice = "metrics/output_tok_s_device/mean";

/// A scheme at a load point in the plane of the trade-off.
struct Place {
  const Series* series;
  Node load;
  double user = 0;    ///< output tok/s that one user sees
  double device = 0;  ///< output tok/s of a device
  bool frontier = false;

  std::string point() const { return load.at("point").string(); }
};

std::vector<Place> places(const Page& page) {
  std::vector<Place> out;
  for (const Series& series : page.series) {
    for (const std::string& point : page.points) {
      const std::optional<Node> load = load_at(series, point);
      if (!load) continue;
      const std::optional<double> user = load->at(kUser).number();
      const std::optional<double> device = load->at(kDevice).number();
      if (!user || !device || !is_valid(*load)) continue;
      out.push_back({.series = &series, .load = *load, .user = *user, .device = *device});
    }
  }
  for (Place& place : out) {
    place.frontier = std::none_of(out.begin(), out.end(), [&](const Place& other) {
      return other.user >= place.user && other.device >= place.device &&
             (other.user > place.user || other.device > place.device);
    });
  }
  return out;
}

/// Puts labels where no earlier one is; sizes are those of a wide screen.
class LabelPlacer {
 public:
  /// `text` beside the point at fractions (x, y), or nothing where there is no room.
  std::string place(double x, double y, std::string_view text, std::string_view attributes) {
    constexpr double kWidth = 1040;
    constexpr double kHeight = 400;
    const double w = 7.2 * static_cast<double>(text.size());
    const double px = x * kWidth;
    const double py = (1 - y) * kHeight;
    struct Candidate {
      double dx, dy;
      std::string_view anchor;
      double left;
    };
    const std::array<Candidate, 4> candidates = {{{10, 4, "", 10},
                                                  {0, -11, "mid", -w / 2},
                                                  {0, 20, "mid", -w / 2},
                                                  {-10, 4, "end", -10 - w}}};
    for (const Candidate& c : candidates) {
      const Box box = {px + c.left, py + c.dy - 11, px + c.left + w, py + c.dy + 3};
      if (box.left < 0 || box.right > kWidth || box.top < 0) continue;
      if (std::any_of(taken_.begin(), taken_.end(),
                      [&](const Box& b) { return overlap(b, box); })) {
        continue;
      }
      taken_.push_back(box);
      return fmt::format(
          "<text x=\"{}\" y=\"{}\" dx=\"{}\" dy=\"{}\" class=\"label {}\"{}>{}</text>", percent(x),
          percent(1 - y), c.dx, c.dy, c.anchor, attributes, escape(text));
    }
    return "";
  }

  /// Keeps labels off a marker.
  void avoid(double x, double y) {
    taken_.push_back({x * 1040 - 6, (1 - y) * 400 - 6, x * 1040 + 6, (1 - y) * 400 + 6});
  }

 private:
  struct Box {
    double left, top, right, bottom;
  };
  static bool overlap(const Box& a, const Box& b) {
    return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  }
  std::vector<Box> taken_;
};

/// The non-dominated places as one line from the fastest for a user to the most of a device.
std::string frontier_path(std::vector<Place> all, const Scale& x, const Scale& y) {
  std::erase_if(all, [](const Place& p) { return !p.frontier; });
  std::sort(all.begin(), all.end(), [](const Place& a, const Place& b) { return a.user < b.user; });
  Points line;
  for (const Place& p : all) line.emplace_back(x.fraction(p.user), y.fraction(p.device));
  return fmt::format("<path class=\"frontier\" d=\"{}\"/>", path_data(line));
}

std::string pareto_series(const Series& series, const std::vector<Place>& all, const Scale& x,
                          const Scale& y) {
  Points line;
  std::string marks;
  for (const Place& p : all) {
    if (p.series != &series) continue;
    const double fx = x.fraction(p.user);
    const double fy = y.fraction(p.device);
    line.emplace_back(fx, fy);
    const std::string title = fmt::format(
        "<title{} data-p=\"{} {}\">{} at {}: {} tok/s per user, {} tok/s per device</title>",
        p.load.at_attribute(), kUser, kDevice, escape(series.name()), escape(p.point()),
        format_number(p.user, Unit::kFigure), format_number(p.device, Unit::kFigure));
    marks += marker(series.index, fx, fy, title);
  }
  return fmt::format(
      "<g class=\"{}\" data-k=\"{}\">{}{}</g>", series_class(series.index), series.index,
      plot_box(fmt::format("<path class=\"run\" d=\"{}\"/>", path_data(line))), marks);
}

std::string pareto_labels(const std::vector<Place>& all, const Scale& x, const Scale& y) {
  LabelPlacer placer;
  for (const Place& p : all) placer.avoid(x.fraction(p.user), y.fraction(p.device));
  std::string out;
  for (size_t i = 0; i < all.size(); ++i) {
    const Place& p = all[i];
    const bool last = i + 1 == all.size() || all[i + 1].series != p.series;
    if (!p.frontier && !last) continue;
    out += placer.place(x.fraction(p.user), y.fraction(p.device),
                        p.frontier ? p.series->name() + " " + p.point() : p.series->name(),
                        fmt::format(" data-k=\"{}\"", p.series->index));
  }
  return "<g aria-hidden=\"true\">" + out + "</g>";
}

/// The quantile curves of one latency over all schemes at a point.
std::string quantile_chart(const Page& page, const std::string& point, std::string_view metric,
                           std::string_view name, const std::string& id) {
  struct Curve {
    const Series* series;
    std::vector<double> quantiles;
  };
  std::vector<Curve> curves;
  std::vector<double> ends;
  for (const Series& series : page.series) {
    const std::optional<Node> load = load_at(series, point);
    if (!load) continue;
    const Node values = load->at("distributions").at(metric);
    Curve curve{.series = &series, .quantiles = {}};
    for (size_t i = 0; i < values.size(); ++i) {
      if (const std::optional<double> v = values.at(i).number()) curve.quantiles.push_back(*v);
    }
    if (curve.quantiles.size() < 2 || curve.quantiles.size() != values.size()) continue;
    ends.push_back(curve.quantiles.front());
    ends.push_back(curve.quantiles.back());
    curves.push_back(std::move(curve));
  }
  if (curves.empty()) return "";
  const Scale x = scale_of(ends, 6);
  std::string content = grid({.scale = x, .title = fmt::format("{}, ms", name)},
                             {.scale = {.low = 0, .high = 100},
                              .title = "share of values at or below",
                              .most_ticks = 4,
                              .suffix = " %"});
  for (const Curve& curve : curves) {
    Points line;
    const double last = static_cast<double>(curve.quantiles.size() - 1);
    for (size_t i = 0; i < curve.quantiles.size(); ++i) {
      line.emplace_back(x.fraction(curve.quantiles[i]), static_cast<double>(i) / last);
    }
    const size_t index = curve.series->index;
    const size_t middle = curve.quantiles.size() / 2;
    content +=
        fmt::format("<g class=\"{}\" data-k=\"{}\">{}{}</g>", series_class(index), index,
                    plot_box(fmt::format("<path class=\"run\" d=\"{}\"><title>{}</title></path>",
                                         path_data(simplified(line, 1.0 / 1000)),
                                         escape(curve.series->name()))),
                    marker(index, line[middle].first, line[middle].second, ""));
  }
  return chart(id, "quantiles", fmt::format("Distribution of {} at {}", name, escape(point)),
               "One curve a scheme; further left is faster, steeper is steadier. The percentiles "
               "stand in the table of results.",
               content);
}

}  // namespace

std::string pareto_section(const Page& page) {
  const std::vector<Place> all = places(page);
  if (all.empty()) return "<p class=\"muted\">No point has both figures.</p>";
  std::vector<double> users;
  std::vector<double> devices;
  for (const Place& p : all) {
    users.push_back(p.user);
    devices.push_back(p.device);
  }
  const Scale x = scale_of(users, 12);
  const Scale y = scale_of(devices, 12);
  std::string content =
      grid({.scale = x, .title = "output tok/s that one user sees", .most_ticks = 7},
           {.scale = y, .title = "output tok/s per device"});
  content += plot_box(frontier_path(all, x, y));
  for (const Series& series : page.series) content += pareto_series(series, all, x, y);
  content += pareto_labels(all, x, y);
  return chart(
      "pareto", "pareto", "Throughput of a device against speed for a user",
      "One marker for each scheme and load point, joined along a scheme; the heavy line is "
      "the frontier that no other point beats at both. The figures stand in the table of "
      "results.",
      content);
}

std::string latency_section(const Page& page) {
  size_t panel = 0;
  return by_point(page, [&](const std::string& point) {
    ++panel;
    std::string out;
    for (const auto& [metric, name] : {std::pair{"ttft_ms", "time to first token"},
                                       std::pair{"itl_ms", "inter-token latency"}}) {
      const std::string plot =
          quantile_chart(page, point, metric, name, fmt::format("{}-{}", metric, panel));
      if (!plot.empty())
        out += fmt::format("<figure><figcaption>{}</figcaption>{}</figure>", name, plot);
    }
    return out.empty() ? out : "<div class=\"pair\">" + out + "</div>";
  });
}

}  // namespace fourfold::verify
