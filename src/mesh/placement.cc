#include "mesh/placement.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace fourfold::mesh {

ExpertPlacement ExpertPlacement::listed(std::vector<std::vector<int64_t>> shards) {
  for (std::vector<int64_t>& shard : shards) std::sort(shard.begin(), shard.end());
  return ExpertPlacement(Kind::kListed, std::move(shards));
}

base::Status ExpertPlacement::check(int64_t experts, int ep) const {
  if (ep == 1) return {};
  if (kind_ != Kind::kListed) {
    if (experts % ep == 0) return {};
    return base::fail(
        "ep{} cannot split {} experts: {} is not divisible by {}; a placement file may give shards "
        "different numbers of experts",
        ep, experts, experts, ep);
  }
  if (std::ssize(shards_) != ep) {
    return base::fail("ep{} cannot take a placement that lists the experts of {} shards", ep,
                      shards_.size());
  }
  constexpr int kNowhere = -1;
  std::vector<int> shard_of(static_cast<size_t>(experts), kNowhere);
  for (int s = 0; s < ep; ++s) {
    const std::vector<int64_t>& shard = shards_[static_cast<size_t>(s)];
    if (shard.empty()) {
      return base::fail("the placement gives shard {} no expert: each needs at least one", s);
    }
    for (const int64_t expert : shard) {
      if (expert < 0 || expert >= experts) {
        return base::fail("the placement gives shard {} expert {}, but the model has 0 to {}", s,
                          expert, experts - 1);
      }
      int& owner = shard_of[static_cast<size_t>(expert)];
      if (owner != kNowhere) {
        return base::fail("the placement gives expert {} to shards {} and {}: each belongs to one",
                          expert, owner, s);
      }
      owner = s;
    }
  }
  const auto missing = std::find(shard_of.begin(), shard_of.end(), kNowhere);
  if (missing != shard_of.end()) {
    return base::fail("the placement gives expert {} to no shard", missing - shard_of.begin());
  }
  return {};
}

std::vector<int64_t> ExpertPlacement::experts_of(int64_t experts, int ep, int shard) const {
  CHECK(shard >= 0 && shard < ep, "expert shard {} of {}", shard, ep);
  if (kind_ == Kind::kListed && ep > 1) return shards_.at(static_cast<size_t>(shard));
  std::vector<int64_t> out(static_cast<size_t>(experts / ep));
  const bool linear = kind_ != Kind::kRoundRobin;
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = linear ? shard * std::ssize(out) + static_cast<int64_t>(i)
                    : shard + static_cast<int64_t>(i) * ep;
  }
  return out;
}

}  // namespace fourfold::mesh
