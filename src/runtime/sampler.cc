#include "runtime/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "backend/draw.h"
#include "base/check.h"
#include "base/philox.h"

namespace fourfold::runtime {
namespace {

using backend::draw_key;
using backend::draw_value;
using engine::SampledToken;
using engine::TokenId;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// Below this e^x is taken as zero: no sum of a vocabulary's weights would notice it.
constexpr double kSmallestExponent = -700;

/// e^x for x <= 0. Written out in plain additions and multiplications, because the library's exp
/// differs in its last bit from one processor to the next, and a log-probability must not.
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

/// e^(logit - max). The largest logits weigh 1 even where they are infinite.
struct Softmax {
  float max;

  double weight(float logit) const {
    const float value = draw_value(logit);
    return value == max ? 1.0 : exp_of_negative(double{value} - double{max});
  }

  /// Of the whole row, in one order for every row of that length.
  double total(std::span<const float> logits) const {
    std::array<double, 4> lanes{};
    for (size_t i = 0; i < logits.size(); ++i) lanes[i % lanes.size()] += weight(logits[i]);
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  }
};

/// A row's tokens from the most to the least likely, the lower id first among equals. Sorts as far
/// as it is asked.
class FallingOrder {
 public:
  explicit FallingOrder(std::span<const float> logits) : keys_(logits.size()) {
    for (size_t i = 0; i < logits.size(); ++i) {
      keys_[i] = draw_key(draw_value(logits[i]), static_cast<uint32_t>(i));
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

float largest(std::span<const float> logits) {
  float max = kMinusInfinity;
  for (const float logit : logits) max = std::max(max, draw_value(logit));
  return max;
}

void add_logprobs(std::span<const float> logits, size_t count, SampledToken& sampled) {
  const Softmax softmax{largest(logits)};
  FallingOrder order(logits);
  const double log_total = std::log(softmax.total(logits));
  const auto logprob = [&](TokenId token) {
    const float value = draw_value(logits[static_cast<size_t>(token)]);
    const double distance = value == softmax.max ? 0.0 : double{value} - double{softmax.max};
    return static_cast<float>(distance - log_total);
  };
  sampled.logprob = logprob(sampled.token);
  for (size_t i = 0; i < std::min(count, logits.size()); ++i) {
    sampled.top.push_back({order[i], logprob(order[i])});
  }
}

}  // namespace

Sampler::Sampler(engine::SlotStart start)
    : params_(std::move(start.sampling)),
      prompt_tokens_(start.prompt_tokens),
      stop_tokens_(std::move(start.stop_tokens)) {
  const base::Status status = engine::check_sampling(params_);
  CHECK(status.ok(), "{}", status.error().message);
  if (!params_.has_penalties()) return;
  for (size_t i = 0; i < start.history.size(); ++i) {
    counts_[start.history[i]] += std::cmp_less(i, prompt_tokens_) ? 0 : 1;
  }
}

bool Sampler::adjusts(int32_t position) const {
  return !params_.logit_bias.empty() || !counts_.empty() ||
         (!stop_tokens_.empty() && position - prompt_tokens_ < params_.min_tokens);
}

bool Sampler::is_plain(int32_t position) const {
  return params_.logprobs < 0 && !params_.has_penalties() && !adjusts(position);
}

backend::Draw Sampler::draw(int32_t position) const {
  const std::array<uint32_t, 4> random = base::philox(
      params_.seed, {static_cast<uint32_t>(params_.choice), static_cast<uint32_t>(position), 0, 0});
  return {.temperature = params_.temperature,
          .top_p = params_.top_p,
          .min_p = params_.min_p,
          .top_k = params_.top_k,
          .random_low = random[1],
          .random_high = random[0]};
}

void Sampler::adjust(std::span<float> logits, int32_t position) const {
  const auto in_vocabulary = [&](TokenId token) {
    return token >= 0 && std::cmp_less(token, logits.size());
  };
  for (const engine::LogitBias& entry : params_.logit_bias) {
    if (in_vocabulary(entry.token)) logits[static_cast<size_t>(entry.token)] += entry.bias;
  }
  if (position - prompt_tokens_ < params_.min_tokens) {
    for (const TokenId token : stop_tokens_) {
      if (in_vocabulary(token)) logits[static_cast<size_t>(token)] = kMinusInfinity;
    }
  }
  const float repetition = params_.repetition_penalty;
  for (const auto& [token, count] : counts_) {
    if (!in_vocabulary(token)) continue;
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / repetition : logit * repetition;
    if (count == 0) continue;
    logit -= params_.frequency_penalty * static_cast<float>(count);
    logit -= params_.presence_penalty;
  }
}

namespace {

void keep_allowed(std::span<float> logits, const text::TokenMask& allowed) {
  CHECK(allowed.size() * text::kTokenMaskBits >= logits.size(), "{} words for {} tokens",
        allowed.size(), logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const uint32_t word = allowed[i / text::kTokenMaskBits];
    const bool is_allowed = (word >> (i % text::kTokenMaskBits) & 1U) != 0;
    logits[i] = is_allowed ? std::max(draw_value(logits[i]), std::numeric_limits<float>::lowest())
                           : kMinusInfinity;
  }
}

}  // namespace

SampledToken Sampler::score(std::span<const float> logits, TokenId token) const {
  CHECK(params_.logprobs >= 0 && std::cmp_less(token, logits.size()),
        "token {} of {} is to be scored with {} alternatives", token, logits.size(),
        params_.logprobs);
  SampledToken scored;
  scored.token = token;
  add_logprobs(logits, static_cast<size_t>(params_.logprobs), scored);
  return scored;
}

SampledToken Sampler::sample(std::span<const float> logits, int32_t position,
                             const text::TokenMask* allowed) {
  CHECK(!logits.empty() && position >= 0, "{} logits at position {}", logits.size(), position);
  std::vector<float> copy;
  std::span<const float> adjusted = logits;
  if (adjusts(position) || allowed != nullptr) {
    copy.assign(logits.begin(), logits.end());
    adjust(copy, position);
    if (allowed != nullptr) keep_allowed(copy, *allowed);
    adjusted = copy;
  }
  SampledToken sampled;
  sampled.token = backend::draw_token(adjusted, draw(position));
  if (params_.logprobs >= 0) {
    add_logprobs(logits, static_cast<size_t>(params_.logprobs), sampled);
  }
  if (params_.has_penalties()) ++counts_[sampled.token];
  return sampled;
}

}  // namespace fourfold::runtime
