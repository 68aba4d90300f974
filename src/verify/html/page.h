#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "verify/html/markup.h"

namespace fourfold::verify {

/// A scheme that was timed; `index` chooses its colour and marker.
struct Series {
  Node scheme;
  size_t index = 0;

  std::string name() const { return scheme.at("scheme").string(); }
};

/// A report as its sections read it.
struct Page {
  explicit Page(const nlohmann::ordered_json& report);

  Node root;
  std::vector<Series> series;
  std::vector<std::string> points;  ///< of load, in the order in which they were run
};

/// The entry of `loads` of a scheme at a point; none where it did not run.
std::optional<Node> load_at(const Series& series, const std::string& point);

/// What `render` makes of each load point, of which the page shows the chosen one. A point of which
/// it makes nothing says so.
std::string by_point(const Page& page,
                     const std::function<std::string(const std::string& point)>& render);

/// The winners at a load point.
Node winners_at(const Page& page, const std::string& point);

/// One row header with the scheme's marker and name, for tables with a row a scheme; `sign` follows
/// the name.
std::string scheme_header(const Series& series, std::string_view sign = "");
/// Whether the client kept its schedule at a load point.
bool is_valid(const Node& load);

/// The cells of a table: a column's header with a unit and a text that shows on hover, and a
/// body's.
std::string head(std::string_view title, std::string_view unit = "", std::string_view hint = "");
std::string cell(std::string_view content, std::string_view kind = "");
/// A cell with the number at `node`, or a dash.
std::string number_cell(const Node& node, Unit unit, std::string_view kind = "");
/// A cell with "12.3 ± 0.4" of the summary {mean, ci95} at `node`, after `sign`.
std::string mean_cell(const Node& summary, std::string_view sign);
/// A captioned table that scrolls within its box where it is too wide.
std::string table(std::string_view caption, std::string_view head, std::string_view rows,
                  std::string_view kind = "");
/// A table of what `row` makes of each scheme that ran at a load point; "" where none did.
std::string load_table(
    const Page& page, const std::string& point, std::string_view caption, std::string_view heads,
    const std::function<std::string(const Series& series, const Node& load)>& row,
    std::string_view kind = "");

// The sections of the page, in its order. Each gives the inside of its <section>.
std::string header_section(const Page& page);
std::string controls(const Page& page);
std::string winners_section(const Page& page);
std::string results_section(const Page& page);
std::string pareto_section(const Page& page);
std::string latency_section(const Page& page);
std::string step_section(const Page& page);
std::string efficiency_section(const Page& page);
std::string timeline_section(const Page& page);
std::string memory_section(const Page& page);
std::string communication_section(const Page& page);
/// With its <section>; "" for a dense model.
std::string experts_section(const Page& page);
std::string answers_section(const Page& page);
std::string laws_section(const Page& page);
std::string commands_section(const Page& page);
std::string not_run_section(const Page& page);
std::string definitions_section(const Page& page);
std::string run_section(const Page& page);

}  // namespace fourfold::verify
