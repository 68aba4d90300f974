#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <span>

namespace fourfold::backend {

/// How a row's token is chosen from its logits: Ops::draw_rows. Lies in a step's inputs as
/// kDrawWords numbers.
struct Draw {
  float temperature = 0;  ///< 0: the largest logit
  float top_p = 1;
  float min_p = 0;
  int32_t top_k = 0;  ///< 0: all
  uint32_t random_low = 0;
  uint32_t random_high = 0;
};
inline constexpr int64_t kDrawWords = sizeof(Draw) / sizeof(int32_t);
using DrawWords = std::array<int32_t, kDrawWords>;  ///< std::bit_cast to and from a Draw

// The numbers below are the same on every backend: plain operations in fp32, and integers, whose
// sums have no order. That is why a draw may be made by any number of threads.

/// The value that a logit counts as: NaN is the least likely, and there is one zero.
constexpr float draw_value(float logit) {
  return logit != logit ? -std::numeric_limits<float>::infinity() : logit + 0.0F;
}

/// Orders a row's tokens: the likelier one, or the lower id among equals, has the smaller key.
constexpr uint64_t draw_key(float value, uint32_t token) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rising = bits >> 31 != 0 ? ~bits : bits | 0x80000000U;
  return uint64_t{~rising} << 32 | token;
}
constexpr float value_of_key(uint64_t key) {
  const uint32_t rising = ~static_cast<uint32_t>(key >> 32);
  return std::bit_cast<float>(rising >> 31 != 0 ? rising & 0x7fffffffU : ~rising);
}

/// The weight of the likeliest token. Those below 2^-40 of it have none.
inline constexpr uint64_t kDrawOne = uint64_t{1} << 40;

/// kDrawOne * e^((value - max) / temperature), to about 2^-22 of itself and one unit; values equal
/// to `max` weigh kDrawOne, even where they are infinite.
constexpr uint64_t draw_weight(float value, float max, float inverse_temperature) {
  if (value == max) return kDrawOne;
  const float x = (value - max) * inverse_temperature;
  if (!(x > -64.0F)) return 0;
  // 2^k e^r with |r| <= ln(2) / 2: adding the shift rounds to the nearest integer.
  constexpr float kShift = 0x1.8p23F;
  constexpr float kLn2High = 0x1.63p-1F;
  constexpr float kLn2Low = -0x1.bd0106p-13F;
  const float k = (x * 0x1.715476p+0F + kShift) - kShift;
  const float r = (x - k * kLn2High) - k * kLn2Low;
  float sum = 1.0F / 5040;
  for (const float term : {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 1.0F / 2, 1.0F, 1.0F}) {
    sum = sum * r + term;
  }
  const auto fraction = static_cast<uint64_t>(sum * 0x1p24F);  // 24 bits: exact
  const auto shift = static_cast<int32_t>(-k);
  return shift > 41 ? 0 : fraction << 16 >> shift;
}

/// Weights below this are not drawn.
constexpr uint64_t least_weight(float min_p) {
  return static_cast<uint64_t>(double{min_p} * static_cast<double>(kDrawOne));
}
/// What the smallest set must weigh that has top_p of `mass`.
constexpr uint64_t wanted_weight(float top_p, uint64_t mass) {
  const auto wanted = static_cast<uint64_t>(double{top_p} * static_cast<double>(mass));
  return wanted == 0 ? 1 : wanted;
}

/// How many of the highest of a key's `below` lowest bits are looked at next to find the last key
/// that is kept: of the value first, then of the id.
constexpr int draw_digit(int below) {
  const int left = below > 32 ? below - 32 : below;
  return left < 11 ? left : 11;
}
inline constexpr int kDrawBins = 1 << 11;

/// Ops::draw_rows of one row, by one thread.
int32_t draw_token(std::span<const float> logits, const Draw& draw);

}  // namespace fourfold::backend
