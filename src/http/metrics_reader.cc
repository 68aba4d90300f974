#include "http/metrics_reader.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

namespace fourfold::http {
namespace {

constexpr std::string_view kNameEnds = "{ \t";

/// One `name="value"` off the front of `labels`, with the comma behind it; none at their end, or
/// where they are no labels.
std::optional<std::pair<std::string_view, std::string>> take_label(std::string_view& labels) {
  const size_t equals = labels.find("=\"");
  if (equals == std::string_view::npos) return std::nullopt;
  std::string_view name = labels.substr(0, equals);
  while (!name.empty() && (name.front() == ',' || name.front() == ' ')) name.remove_prefix(1);
  std::string value;
  for (size_t i = equals + 2; i < labels.size(); ++i) {
    if (labels[i] == '"') {
      labels.remove_prefix(i + 1);
      return std::pair(name, std::move(value));
    }
    if (labels[i] == '\\' && i + 1 < labels.size()) {
      ++i;
      value += labels[i] == 'n' ? '\n' : labels[i];
    } else {
      value += labels[i];
    }
  }
  return std::nullopt;
}

/// Where the labels that begin in front of `text` end; npos if they do not.
size_t end_of_labels(std::string_view text) {
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (quoted && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      quoted = !quoted;
    } else if (text[i] == '}' && !quoted) {
      return i;
    }
  }
  return std::string_view::npos;
}

std::optional<MetricSample> read_line(std::string_view line) {
  const size_t name_end = line.find_first_of(kNameEnds);
  if (line.empty() || line.front() == '#' || name_end == 0 || name_end == line.npos) return {};
  MetricSample out{.name = line.substr(0, name_end), .labels = {}};
  line.remove_prefix(name_end);
  if (line.front() == '{') {
    line.remove_prefix(1);
    const size_t end = end_of_labels(line);
    if (end == line.npos) return {};
    out.labels = line.substr(0, end);
    line.remove_prefix(end + 1);
  }
  const size_t begin = line.find_first_not_of(" \t");
  if (begin == 0 || begin == line.npos) return {};
  line.remove_prefix(begin);
  if (line.front() == '+') line.remove_prefix(1);
  const auto [rest, error] = std::from_chars(line.data(), line.data() + line.size(), out.value);
  const bool ends =
      rest == line.data() + line.size() || *rest == ' ' || *rest == '\t' || *rest == '\r';
  if (error != std::errc() || !ends || std::isnan(out.value)) return {};
  return out;
}

}  // namespace

std::optional<std::string> MetricSample::label(std::string_view label_name) const {
  std::string_view rest = labels;
  while (auto entry = take_label(rest)) {
    if (entry->first == label_name) return std::move(entry->second);
  }
  return std::nullopt;
}

std::vector<MetricSample> read_metrics(std::string_view page) {
  std::vector<MetricSample> out;
  while (!page.empty()) {
    const size_t end = std::min(page.find('\n'), page.size());
    if (const auto sample = read_line(page.substr(0, end))) out.push_back(*sample);
    page.remove_prefix(std::min(end + 1, page.size()));
  }
  return out;
}

}  // namespace fourfold::http
