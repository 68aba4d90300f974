// Sections in words: the headline, who won, the laws, how to start a scheme, what ran where.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "verify/html/page.h"
#include "verify/html/svg.h"

namespace fourfold::verify {
namespace {

struct Objective {
  std::string_view key;
  std::string_view title;
};
constexpr std::array<Objective, 6> kObjectives = {{{"ttft", "First token soonest"},
                                                   {"tpot", "Fastest for one user"},
                                                   {"throughput", "Most tokens a second"},
                                                   {"goodput", "Most requests within the SLO"},
                                                   {"memory", "Least memory on a device"},
                                                   {"concurrency", "Most requests at once"}}};

/// A line to copy.
std::string command(const Node& line, std::string_view whose) {
  if (line.string().empty()) return "";
  return fmt::format(
      "<div class=\"command\"><span class=\"whose\">{}</span><code data-p=\"{}\">{}</code></div>",
      whose, escape(line.pointer()), escape(line.string()));
}

/// A figure with the unit that the report gives it in words.
std::string figure_with_unit(const Node& value, const Node& unit) {
  const std::string word = unit.string();
  constexpr std::string_view kBytes = "bytes";
  if (word.starts_with(kBytes)) {
    return number(value, Unit::kBytes) + " <small>" + escape(word.substr(kBytes.size())) +
           "</small>";
  }
  return number(value, Unit::kFigure) + " <small>" + text(unit) + "</small>";
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

std::string winner_card(const Page& page, const Objective& objective, const Node& winner) {
  const std::string name = winner.at("scheme").string();
  const auto series = std::find_if(page.series.begin(), page.series.end(),
                                   [&](const Series& s) { return s.name() == name; });
  std::string key;
  if (series != page.series.end()) {
    key = fmt::format(
        "<svg class=\"key {}\" aria-hidden=\"true\"><use href=\"#m{}\" x=\"50%\" "
        "y=\"50%\"/></svg>",
        series_class(series->index), series->index % kSeriesStyles);
  }
  std::vector<std::string> ties;
  const Node tie = winner.at("tie");
  for (size_t i = 0; i < tie.size(); ++i) ties.push_back(text(tie.at(i)));
  std::string out =
      fmt::format("<article{}><h3>{}</h3><p class=\"scheme\">{}{}</p><p class=\"value\">{}</p>",
                  winner.at_attribute(), objective.title, key, text(winner.at("scheme")),
                  figure_with_unit(winner.at("value"), winner.at("unit")));
  out += ties.empty() ? "<p class=\"tie\">tied with none</p>"
                      : fmt::format("<p class=\"tie\">tied with {}</p>", join(ties, ", "));
  if (!winner.at("limit").string().empty()) {
    out += fmt::format("<p class=\"limit\"><span>bound by</span> {}</p>", text(winner.at("limit")));
  }
  const std::string commands =
      command(winner.at("start_command"), "fourfold") + command(winner.at("vllm_command"), "vLLM");
  if (!commands.empty()) out += "<details><summary>Start it</summary>" + commands + "</details>";
  return out + "</article>";
}

/// "all 8 schemes answer as tp1 does, bit for bit", or how many do not.
std::string answers_line(const Page& page) {
  size_t compared = 0;
  size_t equal = 0;
  for (const Series& series : page.series) {
    const Node answers = series.scheme.at("answers");
    if (answers.size() == 0) continue;
    ++compared;
    if (answers.at("equal").truth()) ++equal;
  }
  if (compared == 0) return "";
  const std::string baseline = text(page.root.at("baseline"));
  if (equal == compared) {
    return fmt::format(
        "<p class=\"proof\"><span class=\"verdict holds\">proven</span> Every scheme "
        "gives the answers of {}, bit for bit.</p>",
        baseline);
  }
  return fmt::format(
      "<p class=\"proof\"><span class=\"verdict fails\">not proven</span> Answers differ from "
      "those "
      "of {} in <span class=\"derived\">{} of {}</span> schemes: <a href=\"#answers\">see "
      "where</a>."
      "</p>",
      baseline, compared - equal, compared);
}

/// Nothing where the run went to its end.
std::string interrupted_line(const Page& page) {
  if (!page.root.at("interrupted").truth()) return "";
  return "<p class=\"muted\">The run was interrupted: these are the repeats that every scheme had "
         "finished.</p>";
}

/// What † beside a scheme means; nothing where no scheme has it.
std::string cores_line(const Page& page) {
  const bool any = std::any_of(page.series.begin(), page.series.end(),
                               [](const Series& s) { return s.scheme.at("shares_cores").truth(); });
  if (!any) return "";
  return "<p class=\"muted\">† has more devices than this machine has cores or GPUs for: they take "
         "turns, and its speeds say little of a machine with enough.</p>";
}

/// Numbers of an array, joined.
std::string list(const Node& values, Unit unit) {
  std::vector<std::string> out;
  for (size_t i = 0; i < values.size(); ++i) {
    const Node value = values.at(i);
    out.push_back(value.number() ? number(value, unit) : text(value));
  }
  return join(out, ", ");
}

/// A row of the facts at the end; nothing where the value is "".
std::string fact(std::string_view name, const std::string& value) {
  return value.empty() ? "" : fmt::format("<dt>{}</dt><dd>{}</dd>", name, value);
}

std::string figure(const Node& node, Unit unit, std::string_view suffix = "") {
  return node.number() ? number(node, unit) + std::string(suffix) : std::string();
}

/// "closed loop, concurrency 1, 8" or "Poisson arrivals, 2, 4 requests/s".
std::string load_words(const Node& load) {
  const std::string kind = load.at("kind").string();
  if (kind == "closed")
    return "closed loop, concurrency " + list(load.at("concurrency"), Unit::kCount);
  return text(load.at("kind")) + " arrivals, " + list(load.at("rates"), Unit::kFigure) +
         " requests/s";
}

/// The names of the GPUs, or how many where all have one name.
std::string gpu_words(const Node& gpus) {
  for (size_t i = 1; i < gpus.size(); ++i) {
    if (gpus.at(i).string() != gpus.at(0).string()) return list(gpus, Unit::kCount);
  }
  if (gpus.size() == 0) return "";
  return fmt::format("<span class=\"derived\">{} ×</span> {}", gpus.size(), text(gpus.at(0)));
}

std::string length_words(const Node& load) {
  if (!load.at("input_len").number()) return "lengths of the trace";
  return number(load.at("input_len"), Unit::kCount) + " tokens in, " +
         number(load.at("output_len"), Unit::kCount) + " out";
}

}  // namespace

std::string header_section(const Page& page) {
  const Node& root = page.root;
  const Node load = root.at("load");
  const Node gpus = root.at("machine/gpus");
  return fmt::format("<h1>{}</h1><p class=\"dek\">{} on {}: {}, {}, {} repeats, {} numerics.</p>{}",
                     text(root.at("model/name")),
                     fmt::format("<span class=\"derived\">{} parallel scheme{}</span>",
                                 page.series.size(), page.series.size() == 1 ? "" : "s"),
                     gpus.size() > 0 ? gpu_words(gpus) : text(root.at("machine/cpu")),
                     load_words(load), length_words(load), number(load.at("repeats"), Unit::kCount),
                     text(root.at("numerics")),
                     answers_line(page) + interrupted_line(page) + cores_line(page));
}

std::string controls(const Page& page) {
  std::string out;
  if (page.points.size() > 1) {
    out += "<fieldset class=\"points\"><legend>Load</legend>";
    for (size_t i = 0; i < page.points.size(); ++i) {
      out += fmt::format(
          "<label><input type=\"radio\" name=\"point\" "
          "id=\"point-{0}\"{1}><span>{2}</span></label>",
          i, i + 1 == page.points.size() ? " checked" : "", escape(page.points[i]));
    }
    out += "</fieldset>";
  }
  out +=
      "<div class=\"keys\" role=\"group\" aria-label=\"Schemes; press one to bring it forward\">";
  for (const Series& series : page.series) {
    out += fmt::format(
        "<button type=\"button\" class=\"{}\" data-pick=\"{}\" aria-pressed=\"false\"><svg "
        "class=\"key\" aria-hidden=\"true\"><use href=\"#m{}\" x=\"50%\" y=\"50%\"/></svg>{}"
        "</button>",
        series_class(series.index), series.index, series.index % kSeriesStyles,
        escape(series.name()));
  }
  return out + "</div>";
}

std::string winners_section(const Page& page) {
  return by_point(page, [&](const std::string& point) {
    const Node winners = winners_at(page, point);
    std::string out;
    for (const Objective& objective : kObjectives) {
      const Node winner = winners.at(objective.key).anchored();
      if (winner.size() > 0) out += winner_card(page, objective, winner);
    }
    return out.empty() ? out : "<div class=\"cards\">" + out + "</div>";
  });
}

std::string laws_section(const Page& page) {
  const Node laws = page.root.at("laws");
  std::string out;
  for (size_t i = 0; i < laws.size(); ++i) {
    const Node law = laws.at(i).anchored();
    const std::string verdict = law.at("verdict").string();
    const bool known = verdict == "holds" || verdict == "fails";
    out += fmt::format(
        "<li{}><span class=\"verdict {}\" data-p=\"verdict\">{}</span><div><p "
        "class=\"statement\">{}</p><p class=\"evidence\">{}</p></div></li>",
        law.at_attribute(), known ? verdict : "undecided", escape(verdict),
        text(law.at("statement")), text(law.at("evidence")));
  }
  return out.empty() ? "<p class=\"muted\">No laws were tried.</p>"
                     : "<ul class=\"laws\">" + out + "</ul>";
}

std::string commands_section(const Page& page) {
  std::string out;
  for (const Series& series : page.series) {
    out += fmt::format("<div class=\"commands\"{}><b>{}</b>{}{}</div>",
                       series.scheme.at_attribute(), text(series.scheme.at("scheme")),
                       command(series.scheme.at("start_command"), "fourfold"),
                       command(series.scheme.at("vllm_command"), "vLLM"));
  }
  return "<details><summary>Command lines of every scheme</summary>" + out + "</details>";
}

std::string not_run_section(const Page& page) {
  std::string failed;
  std::string illegal;
  const Node schemes = page.root.at("schemes");
  for (size_t i = 0; i < schemes.size(); ++i) {
    const Node scheme = schemes.at(i).anchored();
    const auto line = [&](std::string_view why) {
      return fmt::format("<li{}><b>{}</b> {}</li>", scheme.at_attribute(),
                         text(scheme.at("scheme")), text(scheme.at(why)));
    };
    if (!scheme.at("failure").string().empty()) failed += line("failure");
    if (!scheme.at("legal").truth()) illegal += line("reason");
  }
  std::string out;
  const Node missing = page.root.at("missing");
  for (size_t i = 0; i < missing.size(); ++i) {
    out += fmt::format("<li><b>{}</b>: {}</li>", text(missing.at(i).at("name")),
                       text(missing.at(i).at("reason")));
  }
  if (!out.empty()) out = "<h3>Not measured</h3><ul class=\"notes\">" + out + "</ul>";
  if (!failed.empty()) {
    out += "<h3>Did not finish</h3><ul class=\"notes failed\">" + failed + "</ul>";
  }
  if (!illegal.empty()) {
    out += "<details><summary>Not legal for this model, and why</summary><ul class=\"notes\">" +
           illegal + "</ul></details>";
  }
  return out.empty() ? "<p class=\"muted\">Every scheme ran.</p>" : out;
}

std::string definitions_section(const Page& page) {
  const Node definitions = page.root.at("definitions");
  std::string out;
  if (definitions.json().is_object()) {
    for (const auto& [name, sentence] : definitions.json().items()) {
      out += fmt::format("<dt>{}</dt><dd>{}</dd>", escape(name), text(definitions.at(name)));
    }
  }
  return "<dl>" + out + "</dl>";
}

std::string run_section(const Page& page) {
  const Node& root = page.root;
  const Node load = root.at("load");
  const Node gpus = root.at("machine/gpus");
  const std::string version = text(root.at("version"));
  return "<dl class=\"facts\">" +
         fact("Model", text(root.at("model/name")) + ", " + text(root.at("model/family")) + ", " +
                           number(root.at("model/parameters"), Unit::kParameters) + " parameters" +
                           (root.at("model/dummy_weights").truth() ? ", made-up weights" : "")) +
         fact("Processor", text(root.at("machine/cpu")) + ", " +
                               number(root.at("machine/cores"), Unit::kCount) + " cores") +
         fact("GPUs", gpu_words(gpus)) +
         fact("Free memory of a device",
              figure(root.at("machine/device_memory_bytes"), Unit::kBytes)) +
         fact("Runs on", text(root.at("backend")) + ", " + text(root.at("machine/isa"))) +
         fact("Cores a device", figure(root.at("cpus_per_device"), Unit::kCount)) +
         fact("Measured peak of a device",
              root.at("peaks").size() == 0
                  ? ""
                  : number(root.at("peaks/matmul_flop_s"), Unit::kLarge) + "FLOP/s, " +
                        number(root.at("peaks/read_bytes_s"), Unit::kLarge) + "B/s") +
         fact("Load", load_words(load) + "; " + length_words(load)) +
         fact("Shared prefix", figure(load.at("shared_prefix"), Unit::kCount, " tokens")) +
         fact("Turns", figure(load.at("turns"), Unit::kCount)) +
         fact("Temperature", figure(load.at("temperature"), Unit::kFigure)) +
         fact("Top-k", figure(load.at("top_k"), Unit::kCount)) +
         fact("Top-p", figure(load.at("top_p"), Unit::kFigure)) +
         fact("Min-p", figure(load.at("min_p"), Unit::kFigure)) +
         fact("Burstiness", figure(load.at("burstiness"), Unit::kFigure)) +
         fact("Trace", text(load.at("trace"))) +
         fact("Lengths over the trace's", figure(load.at("trace_scale"), Unit::kFigure)) +
         fact("SLO on TTFT", figure(load.at("slo/ttft_ms"), Unit::kFigure, " ms")) +
         fact("SLO on TPOT", figure(load.at("slo/tpot_ms"), Unit::kFigure, " ms")) +
         fact("SLO on end to end", figure(load.at("slo/e2e_ms"), Unit::kFigure, " ms")) +
         fact("SLO at percentile", figure(load.at("slo/percentile"), Unit::kFigure)) +
         fact("Repeats", text(root.at("interleaving"))) +
         fact("Numerics", text(root.at("numerics"))) +
         fact("Seed", figure(root.at("seed"), Unit::kCount)) + fact("Date", text(root.at("date"))) +
         fact("Made by", "fourfold " + version + " (" + text(root.at("commit")) + ")") + "</dl>" +
         command(root.at("command"), "command");
}

}  // namespace fourfold::verify
