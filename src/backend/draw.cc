#include "backend/draw.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/check.h"

namespace fourfold::backend {
namespace {

constexpr uint64_t kAllKeys = ~uint64_t{0};

/// A row and what its tokens weigh.
class WeighedRow {
 public:
  WeighedRow(std::span<const float> logits, float max, const Draw& draw)
      : logits_(logits), least_(least_weight(draw.min_p)), weights_(logits.size()) {
    const float inverse_temperature = 1.0F / draw.temperature;
    for (size_t i = 0; i < logits.size(); ++i) {
      weights_[i] = draw_weight(draw_value(logits[i]), max, inverse_temperature);
    }
  }

  /// Calls visit(key, weight) for the tokens up to key `last`, by rising id, until it is true.
  template <typename Visit>
  void visit(uint64_t last, const Visit& visit) const {
    for (size_t i = 0; i < weights_.size(); ++i) {
      if (weights_[i] < least_) continue;
      const uint64_t key = draw_key(draw_value(logits_[i]), static_cast<uint32_t>(i));
      if (key <= last && visit(key, weights_[i])) return;
    }
  }

  uint64_t mass(uint64_t last) const {
    uint64_t sum = 0;
    visit(last, [&](uint64_t /*key*/, uint64_t weight) {
      sum += weight;
      return false;
    });
    return sum;
  }

  /// The key up to which tokens have `wanted` of an amount(weight), which those up to `last` have:
  /// of all their keys the digits are counted in turn, from the highest one on.
  template <typename Amount>
  uint64_t last_key(uint64_t last, uint64_t wanted, const Amount& amount) const {
    uint64_t prefix = 0;
    int below = 64;  // bits that are not decided
    while (below > 0) {
      const int digit = draw_digit(below);
      const int shift = below - digit;
      std::array<uint64_t, kDrawBins> amounts{};
      std::array<uint32_t, kDrawBins> counts{};
      visit(last, [&](uint64_t key, uint64_t weight) {
        if (below == 64 || (key ^ prefix) >> below == 0) {
          const size_t bin = key >> shift & ((size_t{1} << digit) - 1);
          amounts[bin] += amount(weight);
          ++counts[bin];
        }
        return false;
      });
      size_t bin = 0;
      while (amounts.at(bin) < wanted) wanted -= amounts[bin++];
      prefix |= uint64_t{bin} << shift;
      below = shift;
      if (counts[bin] == 1) break;
    }
    return std::min(last, prefix | ((uint64_t{1} << below) - 1));
  }

 private:
  std::span<const float> logits_;
  uint64_t least_;
  std::vector<uint64_t> weights_;
};

}  // namespace

int32_t draw_token(std::span<const float> logits, const Draw& draw) {
  CHECK(!logits.empty(), "no logits to draw from");
  uint64_t best = kAllKeys;
  for (size_t i = 0; i < logits.size(); ++i) {
    best = std::min(best, draw_key(draw_value(logits[i]), static_cast<uint32_t>(i)));
  }
  if (draw.temperature == 0) return static_cast<int32_t>(best);

  const WeighedRow row(logits, value_of_key(best), draw);
  uint64_t last = kAllKeys;
  if (draw.top_k > 0) {
    uint64_t count = 0;
    row.visit(kAllKeys, [&](uint64_t /*key*/, uint64_t /*weight*/) {
      return ++count > static_cast<uint64_t>(draw.top_k);
    });
    if (count > static_cast<uint64_t>(draw.top_k)) {
      last = row.last_key(last, static_cast<uint64_t>(draw.top_k),
                          [](uint64_t /*weight*/) { return uint64_t{1}; });
    }
  }
  if (draw.top_p < 1) {
    last = row.last_key(last, wanted_weight(draw.top_p, row.mass(last)),
                        [](uint64_t weight) { return weight; });
  }
  const uint64_t random = uint64_t{draw.random_high} << 32 | draw.random_low;
  __extension__ using Wide = unsigned __int128;
  const auto target = static_cast<uint64_t>(Wide{random} * row.mass(last) >> 64);
  uint64_t reached = 0;
  auto token = static_cast<int32_t>(best);
  row.visit(last, [&](uint64_t key, uint64_t weight) {
    token = static_cast<int32_t>(key);
    reached += weight;
    return reached > target;
  });
  return token;
}

}  // namespace fourfold::backend
