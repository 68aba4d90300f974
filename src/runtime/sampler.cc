#include "runtime/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "base/philox.h"

namespace fourfold::runtime {
namespace {

using engine::SampledToken;
using engine::SamplingParams;
using engine::TokenId;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// Below this e^x is taken as zero: no sum of a vocabulary's weights would notice it.
constexpr double kSmallestExponent = -700;

/// The value that a logit counts as: NaN is the least likely, and there is one zero.
float value_of(float logit) { return std::isnan(logit) ? kMinusInfinity : logit + 0.0F; }

/// e^x for x <= 0. Written out in plain additions and multiplications, because the library's exp
/// differs in its last bit from one processor to the next, and a draw must not.
double exp_of_negative(double x) {
  constexpr double kShift = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  constexpr double kLn2High = 0x1.62e42fefap-1;
  constexpr double kLn2Low = 0x1.cf79abc9e3b3ap-40;
  constexpr std::array<double, 14> kTaylor = {1.0,
                                              1.0,
                                              1.0 / 2,
                                              1.0 / 6,
                                              1.0 / 24,
                                              1.0 / 120,
                                              1.0 / 720,
                                              1.0 / 5040,
                                              1.0 / 40320,
                                              1.0 / 362880,
                                              1.0 / 3628800,
                                              1.0 / 39916800,
                                              1.0 / 479001600,
                                              1.0 / 6227020800};
  const double clamped = std::max(x, kSmallestExponent);
  const double shifted = clamped * 0x1.71547652b82fep+0 + kShift;
  const double k = shifted - kShift;
  const double r = (clamped - k * kLn2High) - k * kLn2Low;  // |r| <= ln(2) / 2
  double sum = kTaylor.back();
  for (size_t i = kTaylor.size() - 1; i-- > 0;) sum = sum * r + kTaylor[i];
  const double scale = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
  return x < kSmallestExponent ? 0.0 : sum * scale;
}

/// e^((logit - max) / temperature). The largest logits weigh 1 even where they are infinite.
struct Softmax {
  float max;
  double inverse_temperature;

  double weight(float logit) const {
    const float value = value_of(logit);
    if (value == max) return 1.0;
    return exp_of_negative((double{value} - double{max}) * inverse_temperature);
  }

  /// Of the whole row, in one order for every row of that length.
  double total(std::span<const float> logits) const {
    std::array<double, 4> lanes{};
    for (size_t i = 0; i < logits.size(); ++i) lanes[i % lanes.size()] += weight(logits[i]);
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  }
};

/// A row's tokens from the most to the least likely, the lower id first among equals. Sorts as far
/// as it is asked: of a vocabulary's hundred thousand tokens a draw looks at few.
class FallingOrder {
 public:
  explicit FallingOrder(std::span<const float> logits) : keys_(logits.size()) {
    for (size_t i = 0; i < logits.size(); ++i) {
      const auto bits = std::bit_cast<uint32_t>(value_of(logits[i]));
      const uint32_t rising = bits >> 31 != 0 ? ~bits : bits | 0x80000000U;
      keys_[i] = uint64_t{~rising} << 32 | i;
    }
  }

  TokenId operator[](size_t i) {
    if (i >= sorted_) sort_to(std::min(keys_.size(), std::max<size_t>(64, 4 * (i + 1))));
    return static_cast<TokenId>(keys_[i]);
  }

 private:
  void sort_to(size_t end) {
    const auto begin = keys_.begin() + static_cast<std::ptrdiff_t>(sorted_);
    const auto stop = keys_.begin() + static_cast<std::ptrdiff_t>(end);
    if (stop != keys_.end()) std::nth_element(begin, stop, keys_.end());
    std::sort(begin, stop);
    sorted_ = end;
  }

  std::vector<uint64_t> keys_;
  size_t sorted_ = 0;
};

float logit_of(std::span<const float> logits, TokenId token) {
  return logits[static_cast<size_t>(token)];
}

TokenId draw(std::span<const float> logits, const SamplingParams& params, int32_t position,
             float max, FallingOrder& order) {
  const Softmax softmax{max, 1.0 / double{params.temperature}};
  const auto weight = [&](size_t i) { return softmax.weight(logit_of(logits, order[i])); };

  size_t candidates = logits.size();
  double mass = 0;
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < candidates) {
    candidates = static_cast<size_t>(params.top_k);
    for (size_t i = 0; i < candidates; ++i) mass += weight(i);
  } else {
    mass = softmax.total(logits);
  }
  if (params.top_p < 1.0F) {
    const double wanted = double{params.top_p} * mass;
    double reached = 0;
    size_t kept = 0;
    while (kept < candidates && reached < wanted) reached += weight(kept++);
    candidates = std::max<size_t>(kept, 1);
    mass = reached;
  }

  const std::array<uint32_t, 4> random =
      base::philox(params.seed, {0, static_cast<uint32_t>(position), 0, 0});
  const double target = double{base::uniform_unit(random[0])} * mass;
  double reached = 0;
  size_t last = 0;
  for (size_t i = 0; i < candidates; ++i) {
    const double w = weight(i);
    if (w == 0) break;  // so are all that follow
    last = i;
    reached += w;
    if (reached > target) break;
  }
  return order[last];
}

void add_logprobs(std::span<const float> logits, const SamplingParams& params, float max,
                  FallingOrder& order, SampledToken& sampled) {
  const Softmax softmax{max, 1.0};
  const double log_total = std::log(softmax.total(logits));
  const auto logprob = [&](TokenId token) {
    const float value = value_of(logit_of(logits, token));
    const double distance = value == max ? 0.0 : double{value} - double{max};
    return static_cast<float>(distance - log_total);
  };
  sampled.logprob = logprob(sampled.token);
  const size_t count = std::min(static_cast<size_t>(params.logprobs), logits.size());
  for (size_t i = 0; i < count; ++i) sampled.top.push_back({order[i], logprob(order[i])});
}

}  // namespace

SampledToken sample(std::span<const float> logits, const SamplingParams& params, int32_t position) {
  CHECK(!logits.empty() && position >= 0, "{} logits at position {}", logits.size(), position);
  CHECK(params.temperature >= 0 && params.top_k >= 0 && params.top_p > 0 && params.top_p <= 1,
        "temperature {}, top_k {}, top_p {}", params.temperature, params.top_k, params.top_p);
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (value_of(logits[i]) > value_of(logits[best])) best = i;
  }
  const float max = value_of(logits[best]);

  SampledToken sampled;
  const bool greedy = params.temperature == 0;
  if (greedy && params.logprobs < 0) {
    sampled.token = static_cast<TokenId>(best);
    return sampled;
  }
  FallingOrder order(logits);
  sampled.token = greedy ? static_cast<TokenId>(best) : draw(logits, params, position, max, order);
  if (params.logprobs >= 0) add_logprobs(logits, params, max, order, sampled);
  return sampled;
}

}  // namespace fourfold::runtime
