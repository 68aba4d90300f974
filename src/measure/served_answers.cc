#include "measure/served_answers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/check.h"
#include "files/printable.h"

namespace fourfold::measure {
namespace {

using Top = std::map<std::string, double>;
constexpr size_t kShownBytes = 40;

std::optional<double> largest_change(const Top& a, const Top& b) {
  std::optional<double> out;
  for (const auto& [token, logprob] : a) {
    const auto other = b.find(token);
    if (other == b.end()) continue;
    out = std::max(out.value_or(0), std::abs(logprob - other->second));
  }
  return out;
}

bool has_tokens(const std::vector<ServedAnswer>& answers) {
  return std::all_of(answers.begin(), answers.end(), [](const ServedAnswer& answer) {
    return !answer.tokens.empty() || answer.text.empty();
  });
}

void compare_tokens(size_t request, const ServedAnswer& a, const ServedAnswer& b,
                    ServedComparison& out) {
  const size_t both = std::min(a.tokens.size(), b.tokens.size());
  out.length += std::ssize(a.tokens);
  for (size_t t = 0; t < both; ++t) {
    if (const auto change = largest_change(a.top[t], b.top[t])) {
      out.max_logprob_diff = std::max(out.max_logprob_diff.value_or(0), *change);
    }
    if (a.tokens[t] == b.tokens[t]) {
      ++out.equal_length;
      continue;
    }
    ServedDifference difference{.request = request,
                                .position = static_cast<int64_t>(t),
                                .baseline = a.tokens[t],
                                .other = b.tokens[t],
                                .margin = std::nullopt};
    if (const auto other = a.top[t].find(b.tokens[t]); other != a.top[t].end()) {
      difference.margin = a.logprobs[t] - other->second;
    }
    out.differences.push_back(std::move(difference));
    return;
  }
  if (a.tokens.size() == b.tokens.size()) return;
  out.differences.push_back({.request = request,
                             .position = static_cast<int64_t>(both),
                             .baseline = both < a.tokens.size() ? a.tokens[both] : "",
                             .other = both < b.tokens.size() ? b.tokens[both] : "",
                             .margin = std::nullopt});
}

void compare_texts(size_t request, const ServedAnswer& a, const ServedAnswer& b,
                   ServedComparison& out) {
  const auto place = std::mismatch(a.text.begin(), a.text.end(), b.text.begin(), b.text.end());
  const auto position = place.first - a.text.begin();
  out.length += std::ssize(a.text);
  out.equal_length += position;
  if (a.text == b.text) return;
  out.differences.push_back({.request = request,
                             .position = position,
                             .baseline = a.text.substr(static_cast<size_t>(position), kShownBytes),
                             .other = b.text.substr(static_cast<size_t>(position), kShownBytes),
                             .margin = std::nullopt});
}

std::string shown(const std::string& token) {
  return token.empty() ? "the end" : '"' + files::printable(token, kShownBytes) + '"';
}

std::string describe(const ServedDifference& difference, const ServedComparison& comparison) {
  std::string out =
      fmt::format("request {} differs at {} {}: {} and {}", difference.request,
                  comparison.unit == ServedComparison::Unit::kTokens ? "token" : "byte",
                  difference.position, shown(difference.baseline), shown(difference.other));
  if (difference.margin) {
    out += fmt::format(", {:.4g} nats apart in the baseline ({})", *difference.margin,
                       difference.near_tie ? "a near-tie" : "no near-tie");
  }
  return out;
}

}  // namespace

int64_t ServedComparison::near_ties() const {
  return std::count_if(differences.begin(), differences.end(),
                       [](const ServedDifference& d) { return d.near_tie; });
}

ServedComparison compare_answers(const std::vector<ServedAnswer>& baseline,
                                 const std::vector<ServedAnswer>& answers) {
  CHECK(baseline.size() == answers.size(), "{} and {} answers", baseline.size(), answers.size());
  ServedComparison out{.unit = has_tokens(baseline) && has_tokens(answers)
                                   ? ServedComparison::Unit::kTokens
                                   : ServedComparison::Unit::kBytes,
                       .answers = std::ssize(baseline),
                       .max_logprob_diff = std::nullopt,
                       .differences = {}};
  for (size_t i = 0; i < baseline.size(); ++i) {
    if (out.unit == ServedComparison::Unit::kTokens) {
      compare_tokens(i, baseline[i], answers[i], out);
    } else {
      compare_texts(i, baseline[i], answers[i], out);
    }
  }
  out.equal_answers = out.answers - std::ssize(out.differences);
  for (ServedDifference& difference : out.differences) {
    difference.near_tie = difference.margin && out.max_logprob_diff &&
                          *difference.margin <= 2 * *out.max_logprob_diff;
  }
  return out;
}

std::string to_text(const ServedComparison& comparison) {
  const bool tokens = comparison.unit == ServedComparison::Unit::kTokens;
  std::string out = fmt::format(
      "{} of {} answers equal ({:.1f} % of the {} come before a first "
      "difference)",
      comparison.equal_answers, comparison.answers, 100 * comparison.equal_length_share(),
      tokens ? "tokens" : "bytes");
  if (comparison.differences.empty()) return out;
  const auto known = std::count_if(comparison.differences.begin(), comparison.differences.end(),
                                   [](const ServedDifference& d) { return d.margin.has_value(); });
  if (known > 0) {
    out += fmt::format("; {} of {} differences with a known margin are near-ties",
                       comparison.near_ties(), known);
  }
  return out + "; " + describe(comparison.differences.front(), comparison);
}

}  // namespace fourfold::measure
