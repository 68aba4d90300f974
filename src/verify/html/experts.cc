// The section of a model with experts: how evenly they work, and what the exchange costs.

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "verify/html/page.h"

namespace fourfold::verify {
namespace {

std::string experts_row(const Node& load) {
  const Node experts = load.at("experts");
  const Node shares = load.at("step_share");
  return number_cell(load.at("expert_imbalance"), Unit::kRatio) +
         number_cell(experts.at("distinct_per_step"), Unit::kFigure) +
         number_cell(experts.at("zero_row_share"), Unit::kShare) +
         number_cell(shares.at("ep_move"), Unit::kShare) +
         number_cell(shares.at("ep_wait"), Unit::kShare) + cell(text(experts.at("binds")), "words");
}

/// The rows of a layer's experts.
std::vector<double> rows_of(const Node& layer) {
  const Node rows = layer.at("rows");
  std::vector<double> out;
  for (size_t e = 0; e < rows.size(); ++e) out.push_back(rows.at(e).number().value_or(0));
  return out;
}

/// How far the experts of a layer are apart: 0 where all have the same rows.
double spread(const std::vector<double>& rows) {
  const auto [least, most] = std::minmax_element(rows.begin(), rows.end());
  return *most > 0 ? (*most - *least) / std::accumulate(rows.begin(), rows.end(), 0.0) : 0;
}

/// The layers of a load; of many the least even ones, in their order.
std::vector<Node> shown_layers(const Node& load) {
  constexpr size_t kMost = 12;
  const Node layers = load.at("experts/layers");
  std::vector<std::pair<double, size_t>> order;
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::vector<double> rows = rows_of(layers.at(i));
    if (!rows.empty()) order.emplace_back(-spread(rows), i);
  }
  std::sort(order.begin(), order.end());
  order.resize(std::min(order.size(), kMost));
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return a.second < b.second; });
  std::vector<Node> out;
  for (const auto& [evenness, i] : order) out.push_back(layers.at(i));
  return out;
}

/// Bars from zero to the largest of `values`, one unit wide each.
std::string bars(const std::vector<double>& values) {
  constexpr double kHeight = 50;
  const double most = std::max(1.0, *std::max_element(values.begin(), values.end()));
  std::string path = fmt::format("M0 {}", kHeight);
  for (const double value : values) {
    path += fmt::format("V{:.0f}h1", kHeight * (1 - value / most));
  }
  return fmt::format(
      "<svg class=\"bar spread\" aria-hidden=\"true\" preserveAspectRatio=\"none\" "
      "viewBox=\"0 0 {} {}\"><path d=\"{}V{}z\"/></svg>",
      values.size(), kHeight, path, kHeight);
}

std::string layer_row(const Node& layer) {
  const std::vector<double> values = rows_of(layer);
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  const auto rows_at = [&](auto expert) {
    return number_cell(layer.at("rows").at(static_cast<size_t>(expert - values.begin())),
                       Unit::kCount);
  };
  return "<tr><th scope=\"row\">" + number(layer.at("layer"), Unit::kCount) + "</th>" +
         cell(bars(values), "wide") + rows_at(least) + rows_at(most) + "</tr>";
}

/// Which rows there are is the load's doing and not the scheme's: the first one with experts that
/// ran the last load speaks for all.
std::string layers_table(const Page& page) {
  if (page.points.empty()) return "";
  for (const Series& series : page.series) {
    const std::optional<Node> load = load_at(series, page.points.back());
    if (!load) continue;
    const std::vector<Node> layers = shown_layers(*load);
    if (layers.empty()) continue;
    std::string rows;
    for (const Node& layer : layers) rows += layer_row(layer);
    return fmt::format(
        "<details{}><summary>Rows of each expert{} in <span{}>{}</span> at {}</summary>{}"
        "</details>",
        load->at_attribute(),
        layers.size() < load->at("experts/layers").size() ? ", in the least even layers," : "",
        series.scheme.at_attribute(), text(series.scheme.at("scheme")), text(load->at("point")),
        table("Rows of each expert",
              head("Layer") + "<th scope=\"col\" class=\"wide\">Rows of each expert</th>" +
                  head("Least") + head("Most"),
              rows, "bars"));
  }
  return "";
}

}  // namespace

std::string experts_section(const Page& page) {
  const bool any = std::any_of(page.series.begin(), page.series.end(), [&](const Series& series) {
    return std::any_of(page.points.begin(), page.points.end(), [&](const std::string& point) {
      const std::optional<Node> load = load_at(series, point);
      return load && load->at("experts").size() > 0;
    });
  });
  if (!any) return "";
  const std::string heads = head("Scheme") + head("Imbalance", "fullest rank / mean") +
                            head("Distinct experts", "a rank, layer and step") +
                            head("No own rows", "of the steps") + head("Moving", "of the time") +
                            head("Waiting", "of the time") +
                            "<th scope=\"col\" class=\"words\">Held up by</th>";
  return "<section id=\"experts\"><h2>Experts</h2><p class=\"lead\">How evenly rows fall on the "
         "ranks that hold their experts, and what it costs to take them there. Replicas that share "
         "experts step together; one without rows steps for the others.</p>" +
         by_point(page,
                  [&](const std::string& point) {
                    return load_table(
                        page, point, "How evenly experts work, and what holds them up", heads,
                        [](const Series&, const Node& load) { return experts_row(load); }, "dense");
                  }) +
         layers_table(page) + "</section>";
}

}  // namespace fourfold::verify
