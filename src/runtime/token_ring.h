#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/ops.h"
#include "base/result.h"
#include "engine/ids.h"

namespace fourfold::runtime {

/// The tokens sampled in the latest steps, in the backend's memory, for rows of later steps that
/// name them by (step, row): a part for each of so many steps. So a step can be enqueued before the
/// host knows the tokens of the one before it.
class TokenRing {
 public:
  TokenRing() = default;
  /// `width`: most rows that are sampled in one step.
  static base::Result<TokenRing> create(const backend::Ops& ops, int steps, int64_t width);

  /// i32, all parts: what Ops::resolve_tokens takes.
  tensor::View whole() const;
  /// Gives the step the part of the oldest one: i32 [count], for its tokens.
  tensor::View begin(engine::StepId step, int64_t count);
  /// As large a place for the same tokens in the host's memory.
  tensor::View on_host(engine::StepId step, int64_t count) const;
  /// How a row's token is named to Ops::resolve_tokens. CHECKs that the ring still has the step.
  int32_t name_of(engine::StepId step, int32_t row) const;

 private:
  size_t part(engine::StepId step) const { return static_cast<size_t>(step.value) % steps_.size(); }
  tensor::View part_of(const tensor::Buffer& buffer, engine::StepId step, int64_t count) const;

  tensor::Buffer ring_;
  tensor::Buffer host_;
  std::vector<engine::StepId> steps_;  ///< whose tokens are in each part
  int64_t width_ = 0;
};

}  // namespace fourfold::runtime
