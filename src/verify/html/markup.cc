#include "verify/html/markup.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>
#include <vector>

#include "base/check.h"

namespace fourfold::verify {
namespace {

/// Decimals that show about three digits.
int decimals(double value) {
  const double size = std::abs(value);
  if (size == 0 || size >= 100) return 0;
  if (size >= 10) return 1;
  if (size >= 1) return 2;
  return std::min(8, static_cast<int>(2 - std::floor(std::log10(size))));
}

/// Fixed point with a comma after every third digit.
std::string fixed(double value, int digits) {
  std::string out = fmt::format("{:.{}f}", value, digits);
  const size_t sign = out.starts_with('-') ? 1 : 0;
  size_t end = std::min(out.find('.'), out.size());
  while (end > sign + 3) {
    end -= 3;
    out.insert(end, 1, ',');
  }
  return out;
}

std::string with_suffix(double value, double step, const std::vector<std::string_view>& suffixes) {
  size_t i = 0;
  while (std::abs(value) >= step && i + 1 < suffixes.size()) {
    value /= step;
    ++i;
  }
  return fmt::format("{} {}", fixed(value, decimals(value)), suffixes[i]);
}

std::string share(double value) {
  const double percent = 100 * value;
  int digits = percent >= 10 ? 1 : 2;
  if (percent == 0 || percent == 100) digits = 0;
  while (value < 1 && digits < 8 && percent + 0.5 * std::pow(10, -digits) >= 100) ++digits;
  return fixed(percent, digits) + " %";
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string script_json(const nlohmann::ordered_json& value) {
  // In JSON a '<' stands within a string only, where it may be written by its code.
  const std::string plain =
      value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::string out;
  out.reserve(plain.size());
  for (const char c : plain) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

std::string fill(std::string_view page, const std::map<std::string, std::string>& slots) {
  std::string out;
  while (true) {
    const size_t open = page.find("{{");
    out += page.substr(0, open);
    if (open == std::string_view::npos) return out;
    const size_t close = page.find("}}", open);
    CHECK(close != std::string_view::npos, "a slot of the page is not closed");
    const std::string name(page.substr(open + 2, close - open - 2));
    const auto slot = slots.find(name);
    CHECK(slot != slots.end(), "the page has a slot '{}' that nobody fills", name);
    out += slot->second;
    page.remove_prefix(close + 2);
  }
}

std::string format_number(double value, Unit unit) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  switch (unit) {
    case Unit::kFigure:
      return fixed(value, decimals(value));
    case Unit::kCount:
      return fixed(value, 0);
    case Unit::kShare:
      return share(value);
    case Unit::kBytes:
      return with_suffix(value / 1024, 1024, {"KiB", "MiB", "GiB", "TiB"});
    case Unit::kLarge:
      return std::abs(value) < 1000 ? fixed(value, decimals(value))
                                    : with_suffix(value / 1000, 1000, {"k", "M", "G", "T"});
    case Unit::kParameters:
      return with_suffix(value / 1000, 1000, {"k", "M", "B", "T"});
    case Unit::kRatio:
      return fixed(value, decimals(value)) + " ×";
  }
  CHECK(false, "unknown unit {}", static_cast<int>(unit));
  return "";
}

std::string format_like(double value, double reference) {
  return fixed(value, decimals(reference));
}

Node Node::at(std::string_view path) const {
  static const nlohmann::ordered_json kNull;
  Node out = *this;
  while (!path.empty()) {
    const std::string key(path.substr(0, path.find('/')));
    path.remove_prefix(std::min(path.size(), key.size() + 1));
    const nlohmann::ordered_json& here = *out.value_;
    out.pointer_ += (out.pointer_.empty() ? "" : "/") + key;
    out.value_ = &kNull;
    if (here.is_object()) {
      if (const auto found = here.find(key); found != here.end()) out.value_ = &*found;
    } else if (here.is_array()) {
      size_t index = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
      const bool whole = error == std::errc() && end == key.data() + key.size();
      if (whole && index < here.size()) out.value_ = &here[index];
    }
  }
  return out;
}

Node Node::anchored() const {
  Node out = *this;
  if (!pointer_.empty()) out.anchor_ += "/" + pointer_;
  out.pointer_.clear();
  return out;
}

size_t Node::size() const { return value_->is_structured() ? value_->size() : 0; }

std::optional<double> Node::number() const {
  if (!value_->is_number()) return std::nullopt;
  return value_->get<double>();
}

std::string Node::string() const {
  return value_->is_string() ? value_->get<std::string>() : std::string();
}

bool Node::truth() const { return value_->is_boolean() && value_->get<bool>(); }

std::string Node::at_attribute() const { return fmt::format(" data-at=\"{}\"", escape(anchor_)); }

std::string number(const Node& node, Unit unit) {
  const std::optional<double> value = node.number();
  if (!value) return no_figure();
  return fmt::format("<span data-p=\"{}\">{}</span>", escape(node.pointer()),
                     format_number(*value, unit));
}

std::string text(const Node& node) {
  const std::string value = node.string();
  if (value.empty()) return "";
  return fmt::format("<span data-p=\"{}\">{}</span>", escape(node.pointer()), escape(value));
}

std::string no_figure() { return "<span class=\"none\">–</span>"; }

}  // namespace fourfold::verify
