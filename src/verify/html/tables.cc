// Sections that are tables with a row a scheme.

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "verify/html/page.h"

namespace fourfold::verify {
namespace {

/// A sign beside the winner's figure, and another beside those that cannot be told from it.
std::string mark(const Node& winners, std::string_view objective, const std::string& scheme) {
  const Node winner = winners.at(objective);
  if (winner.at("scheme").string() == scheme) {
    return "<span class=\"best\" title=\"best\" role=\"img\" aria-label=\"best\">●</span> ";
  }
  const Node tie = winner.at("tie");
  for (size_t i = 0; i < tie.size(); ++i) {
    if (tie.at(i).string() == scheme) {
      return "<span class=\"best\" title=\"cannot be told from the best\" role=\"img\" "
             "aria-label=\"tied\">○</span> ";
    }
  }
  return "";
}

/// Whether the run had a bound that requests had to keep, without which goodput says nothing.
bool has_slo(const Page& page) {
  const Node slo = page.root.at("load/slo");
  return slo.at("ttft_ms").number() || slo.at("tpot_ms").number() || slo.at("e2e_ms").number();
}

std::string results_row(const Node& winners, bool goodput, const Series& series, const Node& load) {
  const auto metric = [&](std::string_view name, std::string_view objective) {
    const std::string sign = objective.empty() ? "" : mark(winners, objective, series.name());
    return mean_cell(load.at("metrics").at(name), sign);
  };
  std::string out = cell(fmt::format("<span{}>{}</span>", series.scheme.at_attribute(),
                                     number(series.scheme.at("devices"), Unit::kCount)));
  if (load.at("saturated").truth()) {
    out += "<td colspan=\"4\" class=\"flag\"><span class=\"badge\">capacity exceeded</span></td>";
  } else {
    out += metric("ttft_ms", "ttft") + metric("tpot_ms", "tpot") + metric("itl_ms", "") +
           metric("e2e_ms", "");
  }
  out += metric("output_tok_s", "throughput") + metric("output_tok_s_device", "") +
         metric("output_tok_s_user", "");
  if (goodput) out += metric("goodput_rps", "goodput");
  std::string requests = number(load.at("requests"), Unit::kCount);
  const Node failed = load.at("failed_requests");
  if (failed.number().value_or(0) > 0) {
    requests +=
        fmt::format(" <span class=\"badge\">{} failed</span>", number(failed, Unit::kCount));
  }
  return out + cell(requests);
}

/// A line for each scheme of which there is more to say than its row holds.
std::string results_notes(const Page& page, const std::string& point) {
  std::string out;
  for (const Series& series : page.series) {
    const std::optional<Node> load = load_at(series, point);
    if (!load || load->at("invalid_reason").string().empty()) continue;
    out += fmt::format("<li><b{}>{}</b> is not valid here: <span{}>{}</span></li>",
                       series.scheme.at_attribute(), text(series.scheme.at("scheme")),
                       load->at_attribute(), text(load->at("invalid_reason")));
  }
  return out.empty() ? "" : "<ul class=\"notes\">" + out + "</ul>";
}

/// The highest rate of each scheme within the SLO; "" where no search was made.
std::string rate_table(const Page& page) {
  std::string rows;
  for (const Series& series : page.series) {
    const Node rate = series.scheme.at("slo_rate");
    if (rate.size() == 0) continue;
    rows +=
        fmt::format("<tr data-k=\"{}\"{}>{}{}{}{}</tr>", series.index, series.scheme.at_attribute(),
                    scheme_header(series), number_cell(rate.at("rate_rps"), Unit::kFigure),
                    number_cell(rate.at("missed_rps"), Unit::kFigure),
                    number_cell(rate.at("runs"), Unit::kCount));
  }
  if (rows.empty()) return "";
  return "<h3>Highest rate within the SLO</h3>" +
         table("Highest rate within the SLO",
               head("Scheme") + head("Met", "requests/s") + head("Missed", "requests/s") +
                   head("Runs"),
               rows, "narrow");
}

std::string percentile_row(const Node& load) {
  std::string out;
  for (const std::string_view metric : {"ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"}) {
    for (const std::string_view name : {"p50", "p90", "p99"}) {
      out += number_cell(load.at("metrics").at(metric).at(name), Unit::kFigure,
                         name == "p50" ? "first" : "");
    }
  }
  return out + number_cell(load.at("send_lateness_ms/p99"), Unit::kFigure, "first");
}

struct AxisName {
  std::string_view key;
  std::string_view label;
};

bool is_used(const Node& load, const AxisName& axis) {
  return load.at("comm").at(axis.key).at("calls").number().value_or(0) > 0;
}

/// The axes over which any scheme communicated at any load.
std::vector<AxisName> used_axes(const Page& page) {
  std::vector<AxisName> out;
  for (const AxisName& axis : std::initializer_list<AxisName>{
           {"tp", "TP"}, {"pp", "PP"}, {"ep", "EP"}, {"control", "Control"}}) {
    const bool used = std::any_of(page.series.begin(), page.series.end(), [&](const Series& s) {
      return std::any_of(page.points.begin(), page.points.end(), [&](const std::string& point) {
        const std::optional<Node> load = load_at(s, point);
        return load && is_used(*load, axis);
      });
    });
    if (used) out.push_back(axis);
  }
  return out;
}

std::string communication_row(const std::vector<AxisName>& axes, const Node& load) {
  std::string out;
  for (const AxisName& axis : axes) {
    const Node cost = load.at("comm").at(axis.key);
    if (!is_used(load, axis)) {
      out += "<td class=\"first\"></td><td></td><td></td><td></td>";
      continue;
    }
    out += number_cell(cost.at("seconds"), Unit::kFigure, "first") +
           number_cell(cost.at("wait_seconds"), Unit::kFigure) +
           number_cell(cost.at("bytes"), Unit::kBytes) +
           number_cell(cost.at("calls"), Unit::kLarge);
  }
  return out;
}

std::string invariant_cell(const Node& answers) {
  if (answers.size() == 0) return cell(no_figure(), "words");
  if (answers.at("equal").truth()) {
    return cell("<span class=\"verdict holds\">bit-equal</span>", "words");
  }
  const Node difference = answers.at("first_difference");
  if (difference.size() == 0) return cell("<span class=\"verdict fails\">differ</span>", "words");
  const Node layer = difference.at("layer");
  std::string place = text(layer);
  if (layer.number()) {
    place = *layer.number() < 0 ? "the embedding" : "layer " + number(layer, Unit::kCount);
  }
  return cell(fmt::format("<span class=\"verdict fails\">differ</span> first at request {}, "
                          "position {}, {}",
                          number(difference.at("request"), Unit::kCount),
                          number(difference.at("position"), Unit::kCount), place),
              "words");
}

std::string answers_row(const Node& scheme) {
  const Node answers = scheme.at("answers");
  const Node fast = scheme.at("fast_answers");
  return invariant_cell(answers) + number_cell(answers.at("equal_token_share"), Unit::kShare) +
         number_cell(answers.at("compared"), Unit::kCount) +
         number_cell(answers.at("missing"), Unit::kCount) +
         number_cell(fast.at("equal_token_share"), Unit::kShare, "first") +
         number_cell(fast.at("compared_tokens"), Unit::kCount) +
         number_cell(fast.at("max_logprob_diff"), Unit::kFigure) +
         number_cell(fast.at("differences"), Unit::kCount) +
         number_cell(fast.at("near_ties"), Unit::kCount) +
         number_cell(scheme.at("invariant_cost"), Unit::kRatio, "first");
}

/// Heads of the percentiles of some metrics, four or three columns to each.
std::string grouped_heads(const std::vector<std::string_view>& groups,
                          const std::vector<std::string_view>& columns) {
  std::string out = head("Scheme");
  for (const std::string_view group : groups) {
    for (const std::string_view column : columns) {
      out += fmt::format("<th scope=\"col\"{}><small>{}</small>{}</th>",
                         column == columns.front() ? " class=\"first\"" : "", group, column);
    }
  }
  return out;
}

}  // namespace

std::string results_section(const Page& page) {
  const bool goodput = has_slo(page);
  const std::string heads =
      head("Scheme") + head("Devices") + head("TTFT", "ms", "time to first token") +
      head("TPOT", "ms", "time per output token") + head("ITL", "ms", "inter-token latency") +
      head("End to end", "ms") + head("Output", "tok/s") + head("Per device", "tok/s") +
      head("Per user", "tok/s") + (goodput ? head("Goodput", "requests/s") : "") + head("Requests");
  const std::string loads = by_point(page, [&](const std::string& point) {
    const Node winners = winners_at(page, point);
    const std::string rows =
        load_table(page, point, "Means over the repeats, ± half the 95 % interval", heads,
                   [&](const Series& series, const Node& load) {
                     return results_row(winners, goodput, series, load);
                   });
    const std::string percentiles =
        load_table(page, point, "Percentiles, in milliseconds",
                   grouped_heads({"TTFT", "TPOT", "ITL", "End to end"}, {"p50", "p90", "p99"}) +
                       "<th scope=\"col\" class=\"first\"><small>sent late</small>p99</th>",
                   [](const Series&, const Node& load) { return percentile_row(load); });
    return rows.empty()
               ? rows
               : rows + results_notes(page, point) + "<details><summary>Percentiles</summary>" +
                     percentiles + "</details>";
  });
  return loads + rate_table(page);
}

/// Of engines that were measured over HTTP.
std::string served_answers_table(const Page& page) {
  std::string rows;
  for (const Series& series : page.series) {
    const Node answers = series.scheme.at("answers_served");
    if (answers.size() == 0) continue;
    rows +=
        fmt::format("<tr data-k=\"{}\"{}>{}{}{}{}{}{}</tr>", series.index, answers.at_attribute(),
                    scheme_header(series), cell(text(answers.at("compared_with")), "words"),
                    number_cell(answers.at("answers"), Unit::kCount),
                    number_cell(answers.at("equal_answers"), Unit::kCount),
                    number_cell(answers.at("equal_length_share"), Unit::kShare),
                    number_cell(answers.at("near_ties"), Unit::kCount));
  }
  if (rows.empty()) return "<p class=\"muted\">No two schemes of an engine were compared.</p>";
  return table("Greedy answers of each engine against those of its first scheme",
               head("Scheme") + "<th scope=\"col\" class=\"words\">Against</th>" + head("Answers") +
                   head("Equal") + head("Before a difference", "share") + head("Near-ties"),
               rows, "dense");
}

std::string communication_section(const Page& page) {
  const std::vector<AxisName> axes = used_axes(page);
  if (axes.empty() && page.root.at("engines").size() > 0) {
    return "<p class=\"muted\">Not measured of engines that run outside.</p>";
  }
  if (axes.empty()) return "<p class=\"muted\">No scheme communicates.</p>";
  std::vector<std::string_view> labels;
  for (const AxisName& axis : axes) labels.push_back(axis.label);
  const std::string heads = grouped_heads(labels, {"seconds", "waiting", "bytes", "calls"});
  return by_point(page, [&](const std::string& point) {
    return load_table(
        page, point, "Means over ranks and repeats", heads,
        [&](const Series&, const Node& load) { return communication_row(axes, load); }, "dense");
  });
}

std::string answers_section(const Page& page) {
  if (page.root.at("engines").size() > 0) return served_answers_table(page);
  std::string rows;
  for (const Series& series : page.series) {
    rows += fmt::format("<tr data-k=\"{}\"{}>{}{}</tr>", series.index, series.scheme.at_attribute(),
                        scheme_header(series), answers_row(series.scheme));
  }
  const std::string heads =
      head("Scheme") + "<th scope=\"col\" class=\"words\"><small>invariant</small>against " +
      text(page.root.at("baseline")) + "</th>" + head("Equal tokens") + head("Compared", "hashes") +
      head("Missing", "hashes") +
      "<th scope=\"col\" class=\"first\"><small>fast</small>Equal tokens</th>" +
      head("Compared", "tokens") + head("Log-prob.", "largest difference") +
      head("Differ", "places") + head("Near-ties") +
      "<th scope=\"col\" class=\"first\">Invariant cost<small>TPOT / fast</small></th>";
  return table("Invariant numerics against the baseline; fast numerics against invariant", heads,
               rows, "dense");
}

}  // namespace fourfold::verify
