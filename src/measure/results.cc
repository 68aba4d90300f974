#include "measure/results.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"
#include "files/json.h"
#include "load/statistics.h"

namespace fourfold::measure {
namespace {

constexpr int kSchema = 1;

std::vector<double> values_of(const Figure& figure) {
  std::vector<double> out;
  for (const Sample& sample : figure.samples) out.push_back(sample.value);
  return out;
}

template <typename T>
nlohmann::ordered_json or_null(const std::optional<T>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

base::Result<Figure> figure_from_json(const nlohmann::json& json, const std::string& name) {
  Figure out;
  FF_ASSIGN(out.name, files::json_get<std::string>(json, "name", name));
  FF_ASSIGN(out.unit, files::json_get<std::string>(json, "unit", name));
  FF_ASSIGN(out.limit, files::json_get_or<std::string>(json, "limit", "", name));
  FF_ASSIGN(const std::string better, files::json_get<std::string>(json, "better", name));
  if (better != "higher" && better != "lower") {
    return base::fail("{}: \"better\" of {} is \"{}\", expected \"higher\" or \"lower\"", name,
                      out.name, better);
  }
  out.better = better == "higher" ? Better::kHigher : Better::kLower;
  const auto samples = json.find("samples");
  if (samples == json.end() || !samples->is_array() || samples->empty()) {
    return base::fail("{}: {} has no list of samples", name, out.name);
  }
  for (const nlohmann::json& sample : *samples) {
    Sample s;
    FF_ASSIGN(s.value, files::json_get<double>(sample, "value", name));
    FF_ASSIGN(const double ceiling, files::json_get_or<double>(sample, "ceiling", 0, name));
    if (ceiling != 0) s.ceiling = ceiling;
    out.samples.push_back(s);
  }
  return out;
}

}  // namespace

std::string display(double value) {
  return value >= 1000 ? fmt::format("{:.0f}", value) : fmt::format("{:.4g}", value);
}

double Figure::value() const { return load::mean(values_of(*this)); }

std::optional<double> Figure::ceiling() const {
  double sum = 0;
  for (const Sample& sample : samples) {
    if (!sample.ceiling) return std::nullopt;
    sum += *sample.ceiling;
  }
  return sum / static_cast<double>(samples.size());
}

std::optional<double> Figure::ratio() const {
  double sum = 0;
  for (const Sample& sample : samples) {
    if (!sample.ceiling) return std::nullopt;
    const double above = better == Better::kHigher ? sample.value : *sample.ceiling;
    const double below = better == Better::kHigher ? *sample.ceiling : sample.value;
    if (!(below > 0)) return std::nullopt;
    sum += above / below;
  }
  return sum / static_cast<double>(samples.size());
}

std::optional<double> Figure::ci95() const { return load::confidence_95(values_of(*this)); }

void add_sample(std::vector<Figure>& figures, const Figure& figure, const Sample& sample) {
  auto it = std::find_if(figures.begin(), figures.end(),
                         [&](const Figure& f) { return f.name == figure.name; });
  if (it == figures.end()) it = figures.insert(figures.end(), figure);
  it->samples.push_back(sample);
}

const Figure* Results::find(const std::string& name) const {
  const auto it =
      std::find_if(figures.begin(), figures.end(), [&](const Figure& f) { return f.name == name; });
  return it == figures.end() ? nullptr : &*it;
}

nlohmann::ordered_json to_json(const Results& results) {
  nlohmann::ordered_json out = {
      {"schema", kSchema},
      {"kind", results.kind},
      {"version", results.version},
      {"commit", results.commit},
      {"command", results.command},
      {"date", results.date},
      {"machine", {{"cpu", results.cpu}, {"isa", results.isa}, {"cores", results.cores}}},
      {"model", results.model},
      {"scheme", results.scheme},
      {"numerics", results.numerics},
      {"results", nlohmann::ordered_json::array()}};
  for (const Figure& figure : results.figures) {
    nlohmann::ordered_json samples = nlohmann::ordered_json::array();
    for (const Sample& sample : figure.samples) {
      samples.push_back({{"value", sample.value}, {"ceiling", or_null(sample.ceiling)}});
    }
    out["results"].push_back({{"name", figure.name},
                              {"value", figure.value()},
                              {"unit", figure.unit},
                              {"ceiling", or_null(figure.ceiling())},
                              {"ratio", or_null(figure.ratio())},
                              {"isa", results.isa},
                              {"limit", figure.limit},
                              {"better", figure.better == Better::kHigher ? "higher" : "lower"},
                              {"ci95", or_null(figure.ci95())},
                              {"samples", std::move(samples)}});
  }
  return out;
}

base::Result<Results> results_from_json(const nlohmann::json& json, const std::string& name) {
  FF_ASSIGN(const int64_t schema, files::json_get<int64_t>(json, "schema", name));
  if (schema != kSchema) {
    return base::fail("{}: schema {} of bench results, expected {}", name, schema, kSchema);
  }
  Results out;
  FF_ASSIGN(out.kind, files::json_get<std::string>(json, "kind", name));
  for (const auto& [key, field] :
       {std::pair{"version", &out.version}, std::pair{"commit", &out.commit},
        std::pair{"command", &out.command}, std::pair{"date", &out.date},
        std::pair{"model", &out.model}, std::pair{"scheme", &out.scheme},
        std::pair{"numerics", &out.numerics}}) {
    FF_ASSIGN(*field, files::json_get_or<std::string>(json, key, "", name));
  }
  const auto machine = json.find("machine");
  if (machine == json.end()) return base::fail("{}: has no \"machine\"", name);
  FF_ASSIGN(out.cpu, files::json_get<std::string>(*machine, "cpu", name));
  FF_ASSIGN(out.isa, files::json_get<std::string>(*machine, "isa", name));
  FF_ASSIGN(out.cores, files::json_get<int64_t>(*machine, "cores", name));
  const auto figures = json.find("results");
  if (figures == json.end() || !figures->is_array()) {
    return base::fail("{}: has no list \"results\": expected a file of fourfold bench --json",
                      name);
  }
  for (const nlohmann::json& figure : *figures) {
    FF_ASSIGN(Figure read, figure_from_json(figure, name));
    if (out.find(read.name) != nullptr) {
      return base::fail("{}: {} stands twice", name, read.name);
    }
    out.figures.push_back(std::move(read));
  }
  return out;
}

base::Result<Results> read_results(const std::string& path) {
  FF_ASSIGN(const nlohmann::json json, files::parse_json_file(path));
  return results_from_json(json, path);
}

std::string to_text(const Results& results) {
  std::string out = fmt::format("bench {}", results.kind);
  if (!results.model.empty()) out += fmt::format(", {}", results.model);
  out += fmt::format(", {}, {} numerics\n{}, {}, {} core{}; fourfold {} ({})\n\n", results.scheme,
                     results.numerics, results.isa, results.cpu, results.cores,
                     results.cores == 1 ? "" : "s", results.version, results.commit);
  size_t width = 0;
  for (const Figure& figure : results.figures) width = std::max(width, figure.name.size());
  out += fmt::format("  {:<{}}  {:>10} {:>9}  {:<7} {:>10} {:>7}  {}\n", "", width, "value", "+-",
                     "unit", "ceiling", "share", "ceiling is");
  for (const Figure& figure : results.figures) {
    const auto ci95 = figure.ci95();
    const auto ceiling = figure.ceiling();
    const auto ratio = figure.ratio();
    out += fmt::format("  {:<{}}  {:>10} {:>9}  {:<7} {:>10} {:>7}  {}\n", figure.name, width,
                       display(figure.value()), ci95 ? display(*ci95) : "", figure.unit,
                       ceiling ? display(*ceiling) : "",
                       ratio ? fmt::format("{:.1f} %", *ratio * 100) : "", figure.limit);
  }
  return out;
}

}  // namespace fourfold::measure
