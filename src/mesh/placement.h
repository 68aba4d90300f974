#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/result.h"

namespace fourfold::mesh {

/// Which expert shard holds each expert, the same in every layer and every expert block. Linear and
/// round robin are rules for any number of shards that divides the experts; lists are of as many
/// shards as there are, which may hold different numbers of experts. One shard always holds all.
class ExpertPlacement {
 public:
  enum class Kind { kLinear, kRoundRobin, kListed };

  /// Shard s of ep holds experts [s * E / ep, (s + 1) * E / ep).
  static ExpertPlacement linear() { return ExpertPlacement(Kind::kLinear, {}); }
  /// It holds s, s + ep, s + 2 * ep, …
  static ExpertPlacement round_robin() { return ExpertPlacement(Kind::kRoundRobin, {}); }
  /// It holds shards[s], in any order.
  static ExpertPlacement listed(std::vector<std::vector<int64_t>> shards);

  ExpertPlacement() = default;  // linear

  /// Errors: a rule that does not divide the experts; lists of another number of shards, an empty
  /// one, an expert that does not exist, stands twice or is missing.
  base::Status check(int64_t experts, int ep) const;

  /// The experts of shard `shard` of `ep`, rising. The arguments pass check().
  std::vector<int64_t> experts_of(int64_t experts, int ep, int shard) const;

  Kind kind() const { return kind_; }
  /// Of kListed; rising.
  const std::vector<std::vector<int64_t>>& shards() const { return shards_; }
  bool operator==(const ExpertPlacement&) const = default;

 private:
  ExpertPlacement(Kind kind, std::vector<std::vector<int64_t>> shards)
      : kind_(kind), shards_(std::move(shards)) {}

  Kind kind_ = Kind::kLinear;
  std::vector<std::vector<int64_t>> shards_;
};

}  // namespace fourfold::mesh
