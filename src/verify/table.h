#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "load/statistics.h"

namespace fourfold::verify {

/// Characters of UTF-8 text.
inline size_t characters(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

/// `text` filled up with spaces to a width in characters.
inline std::string padded(const std::string& text, size_t width, bool left) {
  const std::string fill(width - std::min(width, characters(text)), ' ');
  return left ? text + fill : fill + text;
}

/// Columns as wide as their widest cell; the first is left-aligned, and the last if it holds words.
class Table {
 public:
  explicit Table(std::vector<std::string> header, bool ends_with_words = false)
      : ends_with_words_(ends_with_words) {
    rows_.push_back(std::move(header));
  }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.size() == 1; }

  std::string str() const {
    std::vector<size_t> widths(rows_.front().size());
    for (const auto& row : rows_) {
      for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], characters(row[i]));
    }
    std::string out;
    for (const auto& row : rows_) {
      std::string line;
      for (size_t i = 0; i < row.size(); ++i) {
        const bool left = i == 0 || (ends_with_words_ && i + 1 == row.size());
        line += "  " + padded(row[i], widths[i], left);
      }
      line.erase(line.find_last_not_of(' ') + 1);
      out += line + "\n";
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
  bool ends_with_words_;
};

inline std::string with_interval(const load::Summary& s, int digits) {
  if (!s.mean) return "-";
  if (!s.ci95) return fmt::format("{:.{}f}", *s.mean, digits);
  return fmt::format("{:.{}f} ±{:.{}f}", *s.mean, digits, *s.ci95, digits);
}

inline std::string percent(double share) { return fmt::format("{:.1f}%", 100 * share); }
inline std::string percent(const std::optional<double>& share) {
  return share ? percent(*share) : "-";
}

}  // namespace fourfold::verify
