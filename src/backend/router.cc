#include "backend/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace fourfold::backend {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

/// The best first, ties to the lower index. A NaN is as bad as can be, so that this is an order.
struct Better {
  const std::vector<float>& values;
  float value(int32_t i) const {
    const float x = values[static_cast<size_t>(i)];
    return std::isnan(x) ? kNever : x;
  }
  bool operator()(int32_t a, int32_t b) const {
    const float x = value(a);
    const float y = value(b);
    return x > y || (x == y && a < b);
  }
};

/// The first `count` of `order` are the best of it, in order.
void take_best(const std::vector<float>& values, int64_t count, std::vector<int32_t>& order) {
  std::partial_sort(order.begin(), order.begin() + count, order.end(), Better{values});
}

}  // namespace

float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

Router::Scratch::Scratch(int64_t experts)
    : scores(static_cast<size_t>(experts)),
      biased(static_cast<size_t>(experts)),
      order(static_cast<size_t>(experts)) {}

Router::Router(const Routing& routing, int64_t experts, const float* bias)
    : routing_(routing), experts_(experts), bias_(bias) {
  CHECK(1 <= routing.top_k && routing.groups >= 1 && experts % routing.groups == 0 &&
            1 <= routing.top_groups && routing.top_groups <= routing.groups &&
            routing.top_k <= experts / routing.groups * routing.top_groups,
        "{} of {} experts in {} of {} groups", routing.top_k, experts, routing.top_groups,
        routing.groups);
}

void Router::score(const float* logits, std::vector<float>& scores) const {
  if (routing_.scoring == Routing::Scoring::kSigmoid) {
    std::transform(logits, logits + experts_, scores.begin(), sigmoid);
    return;
  }
  const float max = *std::max_element(logits, logits + experts_);
  float sum = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    scores[i] = std::exp(logits[i] - max);
    sum += scores[i];
  }
  for (float& score : scores) score /= sum;
}

void Router::drop_groups(Scratch& scratch) const {
  const int64_t size = experts_ / routing_.groups;
  std::vector<float> best(static_cast<size_t>(routing_.groups));
  for (size_t g = 0; g < best.size(); ++g) {
    const auto begin = scratch.order.begin() + static_cast<int64_t>(g) * size;
    std::partial_sort(begin, begin + std::min<int64_t>(2, size), begin + size,
                      Better{scratch.biased});
    for (int64_t i = 0; i < std::min<int64_t>(2, size); ++i) {
      best[g] += scratch.biased[static_cast<size_t>(begin[i])];
    }
  }
  std::vector<int32_t> groups(best.size());
  std::iota(groups.begin(), groups.end(), 0);
  take_best(best, routing_.top_groups, groups);
  for (auto g = groups.begin() + routing_.top_groups; g != groups.end(); ++g) {
    std::fill_n(scratch.biased.begin() + *g * size, size, kNever);
  }
}

void Router::choose(const float* logits, Scratch& scratch, int32_t* experts, float* weights) const {
  score(logits, scratch.scores);
  scratch.biased = scratch.scores;
  if (bias_ != nullptr) {
    for (size_t i = 0; i < scratch.biased.size(); ++i) scratch.biased[i] += bias_[i];
  }
  std::iota(scratch.order.begin(), scratch.order.end(), 0);
  if (routing_.top_groups < routing_.groups) drop_groups(scratch);
  take_best(scratch.biased, routing_.top_k, scratch.order);
  std::copy_n(scratch.order.begin(), routing_.top_k, experts);

  float sum = 0;
  for (int64_t i = 0; i < routing_.top_k; ++i) {
    weights[i] = scratch.scores[static_cast<size_t>(experts[i])];
    sum += weights[i];
  }
  for (int64_t i = 0; i < routing_.top_k; ++i) {
    if (routing_.renormalise) weights[i] /= sum;
    weights[i] *= routing_.scale;
  }
}

}  // namespace fourfold::backend
