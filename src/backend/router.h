#pragma once

#include <cstdint>
#include <vector>

#include "backend/ops.h"

namespace fourfold::backend {

float sigmoid(float x);

/// Chooses the experts of one row after another (Ops::route).
class Router {
 public:
  /// Memory for one thread.
  struct Scratch {
    explicit Scratch(int64_t experts);
    std::vector<float> scores;
    std::vector<float> biased;
    std::vector<int32_t> order;
  };

  /// bias: [experts], or null; it outlives the router.
  Router(const Routing& routing, int64_t experts, const float* bias);

  /// logits [experts] -> experts and weights [top_k].
  void choose(const float* logits, Scratch& scratch, int32_t* experts, float* weights) const;

 private:
  void score(const float* logits, std::vector<float>& scores) const;
  /// Puts the experts of groups that may not be chosen behind all others.
  void drop_groups(Scratch& scratch) const;

  const Routing& routing_;
  int64_t experts_;
  const float* bias_;
};

}  // namespace fourfold::backend
