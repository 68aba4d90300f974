#include "verify/html/report_html.h"

#include <fmt/format.h>

#include "verify/html/assets.h"
#include "verify/html/page.h"
#include "verify/html/report_csv.h"

namespace fourfold::verify {
namespace {

constexpr int64_t kSchema = 2;

/// Shows the panels of the chosen load point only, where the browser knows :has(); else all of
/// them.
std::string point_rules(const Page& page) {
  std::string out;
  for (size_t i = 0; i < page.points.size(); ++i) {
    out += fmt::format(
        ":root:has(#point-{0}:checked) .point:not([data-point=\"{0}\"]){{display:none}}\n", i);
  }
  return out;
}

}  // namespace

base::Result<std::string> to_html(const nlohmann::ordered_json& report) {
  if (!report.is_object() || !report.contains("schema") || report["schema"] != kSchema ||
      !report.contains("schemes") || !report["schemes"].is_array()) {
    return base::fail(
        "expected a report of `fourfold verify --json` with \"schema\": {} and a list \"schemes\"; "
        "run verify again with this version",
        kSchema);
  }
  const Page page(report);
  return fill(kReportHtml, {{"name", escape(page.root.at("model/name").string())},
                            {"style", std::string(kReportCss) + point_rules(page)},
                            {"script", std::string(kReportJs)},
                            {"header", header_section(page)},
                            {"controls", controls(page)},
                            {"winners", winners_section(page)},
                            {"results", results_section(page)},
                            {"pareto", pareto_section(page)},
                            {"latency", latency_section(page)},
                            {"step", step_section(page)},
                            {"efficiency", efficiency_section(page)},
                            {"timeline", timeline_section(page)},
                            {"memory", memory_section(page)},
                            {"communication", communication_section(page)},
                            {"experts", experts_section(page)},
                            {"answers", answers_section(page)},
                            {"laws", laws_section(page)},
                            {"commands", commands_section(page)},
                            {"not_run", not_run_section(page)},
                            {"definitions", definitions_section(page)},
                            {"run", run_section(page)},
                            {"figures", script_json(to_csv(report))}});
}

}  // namespace fourfold::verify
