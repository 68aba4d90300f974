#include "load/slo.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <vector>

namespace fourfold::load {
namespace {

// Milliseconds: a microsecond to eleven days. Numbers in this range are printed without an
// exponent.
constexpr double kLeastBound = 1e-3;
constexpr double kMostBound = 1e9;
constexpr std::string_view kExample = "expected for example \"ttft=500ms,tpot=50ms,p99\"";

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

base::Result<double> parse_milliseconds(std::string_view text, std::string_view part) {
  const size_t unit_at = text.find_first_not_of("0123456789.");
  const std::string_view unit = unit_at == std::string_view::npos ? "" : text.substr(unit_at);
  const double factor = unit == "ms" ? 1 : unit == "s" ? 1e3 : unit == "us" ? 1e-3 : 0;
  const std::optional<double> value = parse_number(text.substr(0, unit_at));
  const double milliseconds = value.value_or(0) * factor;
  if (!(milliseconds >= kLeastBound && milliseconds <= kMostBound)) {
    return base::fail(
        "\"{}\" in the service level: expected a positive time from 1us to 1000000s with us, ms or "
        "s; {}",
        part, kExample);
  }
  return milliseconds;
}

std::optional<double>* bound_of(Slo& slo, std::string_view name) {
  if (name == "ttft") return &slo.ttft_ms;
  if (name == "tpot") return &slo.tpot_ms;
  if (name == "e2e") return &slo.e2e_ms;
  return nullptr;
}

base::Status parse_part(std::string_view part, Slo& slo) {
  const size_t equals = part.find('=');
  if (equals == std::string_view::npos && part.starts_with('p')) {
    const std::optional<double> percentile = parse_number(part.substr(1));
    if (!percentile || *percentile < 50 || *percentile > 99.9) {
      return base::fail("\"{}\" in the service level: expected a percentile from p50 to p99.9",
                        part);
    }
    slo.percentile = *percentile;
    return {};
  }
  std::optional<double>* bound = bound_of(slo, part.substr(0, equals));
  if (equals == std::string_view::npos || bound == nullptr) {
    return base::fail("\"{}\" in the service level: expected ttft=, tpot= or e2e=; {}", part,
                      kExample);
  }
  if (bound->has_value()) return base::fail("\"{}\": the service level bounds this twice", part);
  FF_ASSIGN(*bound, parse_milliseconds(part.substr(equals + 1), part));
  return {};
}

}  // namespace

base::Result<Slo> parse_slo(std::string_view text) {
  Slo out;
  for (std::string_view rest = text;;) {
    const size_t comma = rest.find(',');
    FF_TRY(parse_part(rest.substr(0, comma), out));
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  if (out.empty()) return base::fail("\"{}\" bounds nothing; {}", text, kExample);
  return out;
}

std::string to_string(const Slo& slo) {
  std::string out;
  const auto add = [&](std::string_view name, const std::optional<double>& bound) {
    if (bound) out += fmt::format("{}={}ms,", name, *bound);
  };
  add("ttft", slo.ttft_ms);
  add("tpot", slo.tpot_ms);
  add("e2e", slo.e2e_ms);
  return out + fmt::format("p{}", slo.percentile);
}

}  // namespace fourfold::load
