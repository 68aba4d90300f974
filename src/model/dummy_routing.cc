#include "model/dummy_routing.h"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "base/philox.h"

namespace fourfold::model {
namespace {

constexpr std::string_view kZipf = "zipf:";
/// Beyond it the second expert is already as good as never drawn.
constexpr double kMaxExponent = 16;

/// A draw of the standard Gumbel distribution: -ln(-ln(u)), u inside (0, 1).
double gumbel(uint32_t bits) {
  const double u = (static_cast<double>(bits) + 0.5) * 0x1p-32;
  return -std::log(-std::log(u));
}

}  // namespace

base::Result<DummyRouting> parse_dummy_routing(std::string_view text) {
  if (text == "natural") return DummyRouting{};
  if (text == "uniform") return DummyRouting{.natural = false, .exponent = 0};
  if (text.starts_with(kZipf)) {
    const std::string_view number = text.substr(kZipf.size());
    double exponent = 0;
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), exponent);
    if (error == std::errc() && end == number.data() + number.size() && exponent > 0 &&
        exponent <= kMaxExponent) {
      return DummyRouting{.natural = false, .exponent = exponent};
    }
  }
  return base::fail(
      "expected natural, uniform or zipf:S with S above 0 and at most {} for the routing of "
      "made-up "
      "weights, found \"{}\"",
      kMaxExponent, text);
}

std::string to_string(const DummyRouting& routing) {
  if (routing.natural) return "natural";
  if (routing.exponent == 0) return "uniform";
  return fmt::format("{}{}", kZipf, routing.exponent);
}

void replace_router_logits(const DummyRouting& routing, const backend::Ops& ops,
                           backend::Stream& stream, tensor::Arena& host, tensor::View logits) {
  if (routing.natural || logits.rows() == 0) return;
  std::vector<uint64_t> keys(static_cast<size_t>(logits.rows()));
  ops.hash_rows(stream, logits, keys);
  stream.synchronize();
  const int64_t experts = logits.shape[1];
  const int64_t mark = host.mark();
  const tensor::View drawn =
      ops.in_host_memory() ? logits : host.allocate(logits.dtype, logits.shape);
  std::span<float> out = drawn.f32_span();
  for (const uint64_t key : keys) {
    for (int64_t e = 0; e < experts; ++e) {
      const auto bits = base::philox(key, {static_cast<uint32_t>(e / 4), 0, 0, 0});
      const double log_probability = -routing.exponent * std::log(static_cast<double>(e + 1));
      out[static_cast<size_t>(e)] =
          static_cast<float>(log_probability + gumbel(bits[static_cast<size_t>(e % 4)]));
    }
    out = out.subspan(static_cast<size_t>(experts));
  }
  if (!ops.in_host_memory()) {
    ops.copy_in(stream, drawn, logits);
    stream.synchronize();
  }
  host.release_to(mark);
}

}  // namespace fourfold::model
