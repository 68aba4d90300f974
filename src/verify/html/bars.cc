// Sections whose charts are bars in the cells of a table: readable at any width, and by anyone.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "verify/html/page.h"
#include "verify/html/svg.h"

namespace fourfold::verify {
namespace {

struct Part {
  std::string_view key;
  std::string_view label;
  std::string_view kind;  ///< class for its colour
};

constexpr std::array<Part, 8> kStepParts = {{{"operators", "operators", "op"},
                                             {"tp_move", "TP moving", "tp"},
                                             {"tp_wait", "TP waiting", "tp wait"},
                                             {"pp_move", "PP moving", "pp"},
                                             {"pp_wait", "PP waiting", "pp wait"},
                                             {"ep_move", "EP moving", "ep"},
                                             {"ep_wait", "EP waiting", "ep wait"},
                                             {"other", "other", "rest"}}};
constexpr std::array<Part, 3> kMemoryParts = {
    {{"weights", "weights", "op"}, {"kv", "KV cache", "tp"}, {"activations", "activations", "pp"}}};

template <size_t kParts>
std::string legend(const std::array<Part, kParts>& parts, std::string_view more = "") {
  std::string out = "<ul class=\"legend\">";
  for (const Part& part : parts) {
    out += fmt::format("<li><span class=\"swatch {}\"></span>{}</li>", part.kind, part.label);
  }
  return out + std::string(more) + "</ul>";
}

/// A bar whose parts lie end to end; `full` is the value of its whole length.
template <size_t kParts>
std::string stacked_bar(const std::array<Part, kParts>& parts, const Node& values, double full,
                        Unit unit, std::string_view more = "") {
  std::string out = "<svg class=\"bar\">";
  double start = 0;
  for (const Part& part : parts) {
    const Node value = values.at(part.key);
    const double size = value.number().value_or(0) / full;
    if (!(size > 0)) continue;
    out += fmt::format(
        "<rect class=\"part {}\" x=\"{}\" width=\"{}\" height=\"100%\"><title "
        "data-p=\"{}\">{}: {}</title></rect>",
        part.kind, percent(start), percent(size), escape(value.pointer()), part.label,
        format_number(*value.number(), unit));
    start += size;
  }
  return out + std::string(more) + "</svg>";
}

std::string step_row(const Node& load) {
  const Node shares = load.at("step_share");
  if (shares.size() == 0) return "";
  std::string out = cell(stacked_bar(kStepParts, shares, 1, Unit::kShare), "wide");
  for (const std::string_view path :
       {"device_busy", "mfu", "mbu", "bubble_share", "kv/hit_rate", "kv/peak_share"}) {
    out += number_cell(load.at(path), Unit::kShare);
  }
  return out + number_cell(load.at("kv/preemptions"), Unit::kCount);
}

/// Both efficiencies on one line, with a mark at 1.
std::string efficiency_row(const Node& load, double full) {
  const Node same = load.at("efficiency/same_load");
  const Node growing = load.at("efficiency/growing_load");
  std::string marks =
      fmt::format("<line class=\"one\" x1=\"{0}\" x2=\"{0}\" y2=\"100%\"/>", percent(1 / full));
  if (same.number() && growing.number()) {
    marks += fmt::format("<line class=\"link\" x1=\"{}\" x2=\"{}\" y1=\"50%\" y2=\"50%\"/>",
                         percent(*same.number() / full), percent(*growing.number() / full));
  }
  const auto dot = [&](const Node& node, std::string_view kind) {
    if (!node.number()) return std::string();
    return fmt::format("<circle class=\"{}\" cx=\"{}\" cy=\"50%\" r=\"5\"/>", kind,
                       percent(*node.number() / full));
  };
  marks += dot(same, "hollow") + dot(growing, "solid");
  return cell("<svg class=\"bar dots\" aria-hidden=\"true\">" + marks + "</svg>", "wide") +
         number_cell(same, Unit::kShare) + number_cell(growing, Unit::kShare);
}

double memory_total(const Node& memory) {
  double out = 0;
  for (const Part& part : kMemoryParts) out += memory.at(part.key).number().value_or(0);
  return out;
}

}  // namespace

std::string step_section(const Page& page) {
  const std::string heads = head("Scheme") +
                            "<th scope=\"col\" class=\"wide\">Share of a device's time</th>" +
                            head("Busy") + head("MFU") + head("MBU") + head("PP bubble") +
                            head("KV hits") + head("KV peak") + head("Preempted");
  return legend(kStepParts) + by_point(page, [&](const std::string& point) {
           return load_table(
               page, point, "Where a device's time went, and how well it was used", heads,
               [](const Series&, const Node& load) { return step_row(load); }, "bars");
         });
}

std::string efficiency_section(const Page& page) {
  double full = 1;
  for (const Series& series : page.series) {
    for (const std::string& point : page.points) {
      const std::optional<Node> load = load_at(series, point);
      if (!load) continue;
      full = std::max({full, load->at("efficiency/same_load").number().value_or(0),
                       load->at("efficiency/growing_load").number().value_or(0)});
    }
  }
  full *= 1.05;
  const std::string heads = head("Scheme") +
                            "<th scope=\"col\" class=\"wide\">Output per device over the "
                            "baseline's</th>" +
                            head("Same load") + head("Growing load");
  return "<ul class=\"legend\"><li><span class=\"swatch ring\"></span>same load</li><li><span "
         "class=\"swatch disc\"></span>load that grows with the devices</li><li><span "
         "class=\"swatch rule\"></span>the baseline</li></ul>" +
         by_point(page, [&](const std::string& point) {
           return load_table(
               page, point, "Parallel efficiency", heads,
               [&](const Series&, const Node& load) { return efficiency_row(load, full); }, "bars");
         });
}

std::string memory_section(const Page& page) {
  double full = 0;
  for (const Series& series : page.series) {
    const Node memory = series.scheme.at("memory_bytes");
    full = std::max({full, memory_total(memory), memory.at("held").number().value_or(0)});
  }
  if (!(full > 0)) return "<p class=\"muted\">No figures.</p>";
  std::string rows;
  for (const Series& series : page.series) {
    const Node memory = series.scheme.at("memory_bytes");
    std::string mark;
    if (const Node held = memory.at("held"); held.number()) {
      mark = fmt::format(
          "<line class=\"mark\" x1=\"{0}\" x2=\"{0}\" y2=\"100%\"><title data-p=\"{1}\">held: "
          "{2}</title></line>",
          percent(*held.number() / full), escape(held.pointer()),
          format_number(*held.number(), Unit::kBytes));
    }
    rows += fmt::format("<tr data-k=\"{}\"{}>{}{}", series.index, series.scheme.at_attribute(),
                        scheme_header(series),
                        cell(stacked_bar(kMemoryParts, memory, full, Unit::kBytes, mark), "wide"));
    for (const std::string_view key : {"weights", "kv", "activations", "planned", "held"}) {
      rows += number_cell(memory.at(key), Unit::kBytes);
    }
    rows += number_cell(memory.at("balance"), Unit::kShare) +
            number_cell(series.scheme.at("max_concurrent_requests"), Unit::kCount) +
            number_cell(series.scheme.at("load_s"), Unit::kFigure) + "</tr>";
  }
  const std::string heads =
      head("Scheme") + "<th scope=\"col\" class=\"wide\">Fullest device</th>" + head("Weights") +
      head("KV cache") + head("Activations") + head("Planned", "in all") +
      head("Held", "after loading") + head("Balance", "mean / fullest") +
      head("Room for", "requests") + head("Load", "s");
  return legend(kMemoryParts, "<li><span class=\"swatch rule\"></span>held after loading</li>") +
         table("Memory of the fullest device", heads, rows, "bars");
}

}  // namespace fourfold::verify
