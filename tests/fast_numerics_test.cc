// What verify says about fast numerics on real ranks: the same answers but for near-ties.

#include <gtest/gtest.h>

#include "verify/run.h"

namespace fourfold::verify {
namespace {

VerifyReport verify_tiny(base::Numerics numerics) {
  VerifyOptions options;
  options.cluster.model = "tiny";
  options.cluster.ranks = runtime::RankMode::kThreads;
  options.numerics = numerics;
  options.schemes = {{}, {.tp = 2}, {.pp = 2, .tp = 4}, {.pp = 2, .dp = 2}};
  options.input_len = 40;
  options.output_len = 4;
  options.concurrencies = {4};
  options.repeats = 2;
  base::Result<VerifyReport> report = run(options, [](const std::string&) {});
  EXPECT_TRUE(report.ok()) << report.error().message;
  return std::move(report).value();
}

TEST(FastNumerics, DeviateWithinRoundingAndOnlyAtNearTies) {
  const VerifyReport report = verify_tiny(base::Numerics::kFast);
  ASSERT_TRUE(report.ok());
  for (const SchemeResult& r : report.schemes) {
    SCOPED_TRACE(mesh::scheme_name(r.scheme));
    ASSERT_TRUE(r.fast_answers.has_value());
    EXPECT_GT(r.fast_answers->compared_tokens, 50);
    EXPECT_LT(r.fast_answers->max_logprob_diff, 0.1);
    EXPECT_EQ(r.fast_answers->near_ties, r.fast_answers->differences);
    EXPECT_TRUE(r.invariant_cost.has_value());
  }
  // bf16 on the wire must show, else fast numerics did not run.
  EXPECT_GT(report.find({.tp = 2})->fast_answers->max_logprob_diff, 0);
}

TEST(FastNumerics, InvariantNumericsHaveNothingToDeviateFrom) {
  const VerifyReport report = verify_tiny(base::Numerics::kInvariant);
  ASSERT_TRUE(report.ok());
  for (const SchemeResult& r : report.schemes) {
    EXPECT_FALSE(r.fast_answers.has_value());
    EXPECT_EQ(r.loads.at({.concurrency = 4}).repeats.size(), 2U);
  }
}

}  // namespace
}  // namespace fourfold::verify
