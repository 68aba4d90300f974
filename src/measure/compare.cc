#include "measure/compare.h"

#include <algorithm>
#include <cmath>

namespace fourfold::measure {
namespace {

Comparison compare_figures(const Figure& before, const Figure& after) {
  Comparison out{.name = before.name,
                 .unit = before.unit,
                 .before = before.value(),
                 .after = after.value(),
                 .before_share = before.ratio(),
                 .after_share = after.ratio()};
  const bool higher = before.better == Better::kHigher;
  const double worse = higher ? out.before : out.after;
  const double better = higher ? out.after : out.before;
  if (worse > 0) out.gain = better / worse;
  const std::optional<double> a = before.ci95();
  const std::optional<double> b = after.ci95();
  out.significant = a && b && std::abs(out.after - out.before) > std::hypot(*a, *b);
  return out;
}

}  // namespace

std::vector<Comparison> ComparisonTable::worse_than(double percent) const {
  std::vector<Comparison> out;
  std::copy_if(figures.begin(), figures.end(), std::back_inserter(out),
               [&](const Comparison& c) { return c.significant && c.gain < 1 - percent / 100; });
  return out;
}

base::Result<ComparisonTable> compare(const Results& before, const Results& after) {
  if (before.kind != after.kind) {
    return base::fail("results of bench {} and of bench {} cannot be compared", before.kind,
                      after.kind);
  }
  ComparisonTable out;
  for (const auto& [what, a, b] : {std::tuple{"cpu", &before.cpu, &after.cpu},
                                   std::tuple{"instruction set", &before.isa, &after.isa},
                                   std::tuple{"model", &before.model, &after.model},
                                   std::tuple{"scheme", &before.scheme, &after.scheme},
                                   std::tuple{"numerics", &before.numerics, &after.numerics}}) {
    if (*a != *b) out.differences.push_back(fmt::format("{}: {} and {}", what, *a, *b));
  }
  for (const Figure& figure : before.figures) {
    const Figure* other = after.find(figure.name);
    if (other == nullptr) {
      out.only_before.push_back(figure.name);
    } else if (other->unit != figure.unit || other->better != figure.better) {
      return base::fail("{} is in {} on one side and in {} on the other", figure.name, figure.unit,
                        other->unit);
    } else {
      out.figures.push_back(compare_figures(figure, *other));
    }
  }
  for (const Figure& figure : after.figures) {
    if (before.find(figure.name) == nullptr) out.only_after.push_back(figure.name);
  }
  if (out.figures.empty()) return base::fail("the two files have no figure in common");
  return out;
}

std::string to_text(const ComparisonTable& table) {
  std::string out;
  for (const std::string& difference : table.differences) {
    out += fmt::format("not the same {}\n", difference);
  }
  size_t width = 0;
  for (const Comparison& c : table.figures) width = std::max(width, c.name.size());
  const auto share = [](const std::optional<double>& ratio) {
    return ratio ? fmt::format("{:.1f} %", *ratio * 100) : std::string();
  };
  out += fmt::format("  {:<{}}  {:>10} {:>10}  {:<7} {:>7}  {:>8} {:>8}  {}\n", "", width, "before",
                     "after", "unit", "gain", "share", "share", "");
  for (const Comparison& c : table.figures) {
    out += fmt::format("  {:<{}}  {:>10} {:>10}  {:<7} {:>6.3f}x  {:>8} {:>8}  {}\n", c.name, width,
                       display(c.before), display(c.after), c.unit, c.gain, share(c.before_share),
                       share(c.after_share),
                       !c.significant ? "within the noise" : (c.gain > 1 ? "better" : "WORSE"));
  }
  for (const std::string& name : table.only_before) {
    out += fmt::format("  {}: only before\n", name);
  }
  for (const std::string& name : table.only_after) out += fmt::format("  {}: only after\n", name);
  return out;
}

}  // namespace fourfold::measure
