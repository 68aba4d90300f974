#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/ops.h"
#include "engine/step.h"
#include "model/groups.h"
#include "runtime/sampler.h"

namespace fourfold::runtime {

/// A row of a step whose token is chosen.
struct SampledRow {
  int32_t row = 0;                           ///< of the step
  int32_t next_position = 0;                 ///< where its token comes
  Sampler* sampler = nullptr;                ///< its sequence's
  const text::TokenMask* allowed = nullptr;  ///< null: all tokens
  engine::TokenId target = -1;               ///< what it is, where that is known

  /// True where more is asked of the row than a draw.
  bool on_host() const {
    return target >= 0 || allowed != nullptr || !sampler->is_plain(next_position);
  }
  /// How it is drawn where the logits are; anything, quickly, if it is sampled on the host anyway.
  backend::Draw draw() const { return on_host() ? backend::Draw() : sampler->draw(next_position); }
};

/// Ops::draw_rows for all rows; where that is the work of the host's threads, with marks that it
/// goes on. logits [R, vocab], draws [R, kDrawWords], tokens [R].
void draw_rows(const backend::Ops& ops, backend::Stream& stream, model::RankGroups& groups,
               tensor::View logits, tensor::View draws, tensor::View tokens);

/// Replaces the tokens of the rows of which more is asked. logits [R, vocab]; `host` has room for
/// Decoder::kHostLogitRows rows of them, if they are elsewhere.
void sample_on_host(const backend::Ops& ops, backend::Stream& stream, model::RankGroups& groups,
                    tensor::Arena& host, std::span<const SampledRow> rows, tensor::View logits,
                    std::span<engine::SampledToken> tokens);

}  // namespace fourfold::runtime
