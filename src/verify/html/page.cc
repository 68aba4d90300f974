#include "verify/html/page.h"

#include <fmt/format.h>

#include <algorithm>

#include "verify/html/svg.h"

namespace fourfold::verify {

namespace {

constexpr std::string_view kInvalid =
    " <abbr class=\"badge\" title=\"not valid: the client did not keep its schedule\">!</abbr>";

constexpr std::string_view kSharesCores = " <abbr title=\"its devices take turns\">†</abbr>";

}  // namespace

Page::Page(const nlohmann::ordered_json& report) : root(report) {
  const Node schemes = root.at("schemes");
  for (size_t i = 0; i < schemes.size(); ++i) {
    const Node scheme = schemes.at(i).anchored();
    const Node loads = scheme.at("loads");
    if (loads.size() == 0) continue;
    series.push_back({.scheme = scheme, .index = series.size()});
    for (size_t j = 0; j < loads.size(); ++j) {
      const std::string point = loads.at(j).at("point").string();
      if (std::find(points.begin(), points.end(), point) == points.end()) points.push_back(point);
    }
  }
}

std::optional<Node> load_at(const Series& series, const std::string& point) {
  const Node loads = series.scheme.at("loads");
  for (size_t i = 0; i < loads.size(); ++i) {
    if (loads.at(i).at("point").string() == point) return loads.at(i).anchored();
  }
  return std::nullopt;
}

std::string by_point(const Page& page,
                     const std::function<std::string(const std::string& point)>& render) {
  std::string out;
  for (size_t i = 0; i < page.points.size(); ++i) {
    const std::string content = render(page.points[i]);
    out +=
        fmt::format("<div class=\"point\" data-point=\"{}\"><p class=\"at\">at {}</p>{}</div>", i,
                    escape(page.points[i]),
                    content.empty() ? "<p class=\"muted\">No figures at this load.</p>" : content);
  }
  return out;
}

Node winners_at(const Page& page, const std::string& point) {
  const Node all = page.root.at("winners_by_point");
  for (size_t i = 0; i < all.size(); ++i) {
    if (all.at(i).at("point").string() == point) return all.at(i).at("winners");
  }
  return page.root.at("winners_by_point").at(all.size());
}

bool is_valid(const Node& load) {
  const nlohmann::ordered_json& valid = load.at("valid").json();
  return !valid.is_boolean() || valid.get<bool>();
}

std::string scheme_header(const Series& series, std::string_view sign) {
  return fmt::format(
      "<th scope=\"row\" class=\"{}\"{}><svg class=\"key\" aria-hidden=\"true\"><use href=\"#m{}\" "
      "x=\"50%\" y=\"50%\"/></svg>{}{}{}</th>",
      series_class(series.index), series.scheme.at_attribute(), series.index % kSeriesStyles,
      text(series.scheme.at("scheme")),
      series.scheme.at("shares_cores").truth() ? kSharesCores : "", sign);
}

std::string head(std::string_view title, std::string_view unit, std::string_view hint) {
  return fmt::format("<th scope=\"col\"{}>{}{}</th>",
                     hint.empty() ? "" : fmt::format(" title=\"{}\"", hint), title,
                     unit.empty() ? "" : fmt::format("<small>{}</small>", unit));
}

std::string cell(std::string_view content, std::string_view kind) {
  return kind.empty() ? fmt::format("<td>{}</td>", content)
                      : fmt::format("<td class=\"{}\">{}</td>", kind, content);
}

std::string number_cell(const Node& node, Unit unit, std::string_view kind) {
  const std::optional<double> value = node.number();
  if (!value) return cell(no_figure(), kind);
  return fmt::format("<td{} data-p=\"{}\">{}</td>",
                     kind.empty() ? "" : fmt::format(" class=\"{}\"", kind), escape(node.pointer()),
                     format_number(*value, unit));
}

std::string mean_cell(const Node& summary, std::string_view sign) {
  const std::optional<double> mean = summary.at("mean").number();
  const std::optional<double> ci95 = summary.at("ci95").number();
  if (!mean) return cell(no_figure());
  return fmt::format("<td data-p=\"{}\">{}{}{}</td>", escape(summary.pointer()), sign,
                     format_number(*mean, Unit::kFigure),
                     ci95 ? fmt::format(" <i>± {}</i>", format_like(*ci95, *mean)) : "");
}

std::string table(std::string_view caption, std::string_view head, std::string_view rows,
                  std::string_view kind) {
  return fmt::format(
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table "
      "class=\"{3}\"><caption>{0}</caption><thead><tr>{1}</tr></thead><tbody>{2}</tbody></table>"
      "</div>",
      caption, head, rows, kind);
}

std::string load_table(
    const Page& page, const std::string& point, std::string_view caption, std::string_view heads,
    const std::function<std::string(const Series& series, const Node& load)>& row,
    std::string_view kind) {
  std::string rows;
  for (const Series& series : page.series) {
    const std::optional<Node> load = load_at(series, point);
    if (!load) continue;
    rows += fmt::format("<tr data-k=\"{}\"{}>{}{}</tr>", series.index, load->at_attribute(),
                        scheme_header(series, is_valid(*load) ? "" : kInvalid), row(series, *load));
  }
  return rows.empty() ? "" : table(caption, heads, rows, kind);
}

}  // namespace fourfold::verify
