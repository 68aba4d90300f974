// KV use and queue over time: one small chart a scheme, all at a load point on the same scales but
// for time.

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "verify/html/page.h"
#include "verify/html/svg.h"

namespace fourfold::verify {
namespace {

/// The columns of `timeline`.
constexpr size_t kSeconds = 0;
constexpr size_t kKvShare = 1;
constexpr size_t kRunning = 2;
constexpr size_t kWaiting = 3;

struct Run {
  const Series* series;
  std::vector<std::array<double, 4>> rows;
};

std::vector<Run> runs_at(const Page& page, const std::string& point) {
  std::vector<Run> out;
  for (const Series& series : page.series) {
    const std::optional<Node> load = load_at(series, point);
    if (!load) continue;
    const Node timeline = load->at("timeline");
    Run run{.series = &series, .rows = {}};
    for (size_t i = 0; i < timeline.size(); ++i) {
      std::array<double, 4> row = {};
      for (size_t c = 0; c < row.size(); ++c) row[c] = timeline.at(i).at(c).number().value_or(0);
      run.rows.push_back(row);
    }
    if (run.rows.size() > 1) out.push_back(std::move(run));
  }
  return out;
}

Points column(const Run& run, size_t c, const Scale& x, const Scale& y) {
  Points out;
  for (const auto& row : run.rows) out.emplace_back(x.fraction(row[kSeconds]), y.fraction(row[c]));
  return simplified(out, 1.0 / 100);
}

std::string small_chart(const Run& run, const Scale& queue, const std::string& id) {
  const Scale time = {.low = 0, .high = std::max(run.rows.back()[kSeconds], 1e-9)};
  Points kv = column(run, kKvShare, time, {.low = 0, .high = 1});
  kv.emplace_back(kv.back().first, 0);
  kv.emplace_back(kv.front().first, 0);
  const bool any_waiting =
      std::any_of(run.rows.begin(), run.rows.end(), [](const auto& r) { return r[kWaiting] > 0; });
  const std::string waiting = any_waiting
                                  ? fmt::format("<path class=\"run waiting\" d=\"{}\"/>",
                                                path_data(column(run, kWaiting, time, queue)))
                                  : "";
  const std::string content =
      plot_box(fmt::format("<path class=\"area\" d=\"{}Z\"/>", path_data(kv)), "0", "40%") +
      plot_box(fmt::format("<path class=\"run\" d=\"{}\"/>{}",
                           path_data(column(run, kRunning, time, queue)), waiting),
               "50%", "50%") +
      fmt::format(
          "<g class=\"grid\" aria-hidden=\"true\"><line x2=\"100%\"/><line x2=\"100%\" "
          "y1=\"40%\" y2=\"40%\"/><line x2=\"100%\" y1=\"50%\" y2=\"50%\"/><line "
          "x2=\"100%\" y1=\"100%\" y2=\"100%\"/><text x=\"-6\" dy=\".7em\" class=\"tick "
          "end\">100 %</text><text x=\"-6\" y=\"40%\" class=\"tick end\">KV 0</text><text "
          "x=\"-6\" y=\"50%\" dy=\".8em\" class=\"tick end\">{0}</text><text x=\"-6\" "
          "y=\"100%\" class=\"tick end\">0</text><text x=\"0\" y=\"100%\" dy=\"16\" "
          "class=\"tick\">0</text><text x=\"100%\" y=\"100%\" dy=\"16\" class=\"tick "
          "end\">{1} s</text></g>",
          format_number(queue.high, Unit::kCount), format_number(time.high, Unit::kFigure));
  const std::string name = escape(run.series->name());
  return fmt::format("<figure class=\"{}\" data-k=\"{}\"><figcaption>{}</figcaption>{}</figure>",
                     series_class(run.series->index), run.series->index, name,
                     chart(id, "timeline", name + ": KV cache and queue over time", "", content));
}

}  // namespace

std::string timeline_section(const Page& page) {
  size_t panel = 0;
  return by_point(page, [&](const std::string& point) {
    ++panel;
    const std::vector<Run> runs = runs_at(page, point);
    double requests = 0;
    for (const Run& run : runs) {
      for (const auto& row : run.rows) {
        requests = std::max({requests, row[kRunning], row[kWaiting]});
      }
    }
    const Scale queue = linear_scale(requests);
    std::string out;
    for (const Run& run : runs) {
      out += small_chart(run, queue, fmt::format("time-{}-{}", panel, run.series->index));
    }
    return out.empty() ? out : "<div class=\"small-charts\">" + out + "</div>";
  });
}

}  // namespace fourfold::verify
