#include "load/arrivals.h"

#include <boost/math/special_functions/gamma.hpp>
#include <utility>

#include "base/check.h"
#include "base/philox.h"

namespace fourfold::load {
namespace {

/// A gap as drawn with scale 1. The inverse distribution function rather than rejection: one draw
/// for each gap, so that loads of other burstiness use the same luck.
double unit_gap(double shape, uint64_t seed, size_t index) {
  namespace policies = boost::math::policies;
  using NoThrow = policies::policy<policies::domain_error<policies::ignore_error>,
                                   policies::overflow_error<policies::ignore_error>,
                                   policies::evaluation_error<policies::ignore_error>>;
  constexpr uint32_t kArrivalDraw = 1;  // the tokens of prompts have 0 there
  const auto draw = base::philox(seed, {static_cast<uint32_t>(index), 0, 0, kArrivalDraw});
  const uint64_t bits = (uint64_t{draw[1]} << 32 | draw[0]) >> 11;
  const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-53;
  return boost::math::gamma_p_inv(shape, uniform, NoThrow());
}

}  // namespace

std::vector<double> draw_arrivals(size_t count, const ArrivalOptions& options) {
  CHECK(options.rate > 0 && options.burstiness > 0, "rate {}, burstiness {}", options.rate,
        options.burstiness);
  std::vector<double> out;
  double time = 0;
  for (size_t i = 0; i < count; ++i) {
    time += unit_gap(options.burstiness, options.seed, i);
    out.push_back(time);
  }
  return scale_to_rate(std::move(out), options.rate);
}

std::vector<double> scale_to_rate(std::vector<double> arrivals_s, double rate) {
  CHECK(rate > 0, "rate {}", rate);
  if (arrivals_s.empty() || arrivals_s.back() <= 0) return arrivals_s;
  const double factor = static_cast<double>(arrivals_s.size()) / rate / arrivals_s.back();
  for (double& time : arrivals_s) time *= factor;
  return arrivals_s;
}

}  // namespace fourfold::load
