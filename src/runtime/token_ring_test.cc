#include "runtime/token_ring.h"

#include <gtest/gtest.h>

#include <vector>

namespace fourfold::runtime {
namespace {

using engine::StepId;

TEST(TokenRing, NamesTheTokensOfTheLatestSteps) {
  const auto ops = backend::make_ops("reference", "").value();
  const auto stream = ops->make_stream(1, {});
  TokenRing ring = TokenRing::create(*ops, 3, 4).value();
  for (int64_t step = 0; step < 5; ++step) {
    const tensor::View tokens = ring.begin(StepId(step), 2);
    tokens.i32()[0] = static_cast<int32_t>(10 * step);
    tokens.i32()[1] = static_cast<int32_t>(10 * step + 1);
  }
  std::vector<int32_t> rows = {7, ring.name_of(StepId(2), 1), ring.name_of(StepId(4), 0)};
  ops->resolve_tokens(*stream, {rows.data(), tensor::DType::kI32, {3}}, ring.whole());
  EXPECT_EQ(rows, (std::vector<int32_t>{7, 21, 40}));
}

TEST(TokenRingDeathTest, KnowsWhichStepsItHasNoMore) {
  const auto ops = backend::make_ops("reference", "").value();
  TokenRing ring = TokenRing::create(*ops, 2, 4).value();
  for (int64_t step = 0; step < 3; ++step) ring.begin(StepId(step), 1);
  EXPECT_DEATH(static_cast<void>(ring.name_of(StepId(0), 0)), "names step 0");
  EXPECT_DEATH(static_cast<void>(ring.begin(StepId(3), 5)), "5 tokens of a step, at most 4");
}

}  // namespace
}  // namespace fourfold::runtime
