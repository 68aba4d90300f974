#include "verify/laws.h"

#include <gtest/gtest.h>

#include "verify/report_for_test.h"

namespace fourfold::verify {
namespace {

Law law(const VerifyReport& report, const std::string& name) {
  for (const Law& law : laws(report)) {
    if (law.name == name) return law;
  }
  ADD_FAILURE() << name;
  return {};
}

/// One device and tp2, whose TTFT is `tp2_ttft` in three repeats.
VerifyReport with_tp2(double tp2_ttft, double tp_seconds, int cores = 2) {
  SchemeResult one = scheme_of({});
  add_runs(one, kOne, {run_of(10, 2, 100), run_of(11, 2, 100), run_of(10.5, 2, 100)});
  SchemeResult tp2 = scheme_of({.tp = 2});
  add_runs(tp2, kOne,
           {run_of(tp2_ttft, 2, 100), run_of(tp2_ttft + 1, 2, 100), run_of(tp2_ttft + 0.5, 2, 100)},
           tp_seconds);
  return report_of({one, tp2}, cores);
}

TEST(TensorLaw, HoldsWhereTtftFallsAndCommunicationGrows) {
  EXPECT_EQ(law(with_tp2(6, 0.1), "tp").verdict, Verdict::kHolds);
}

TEST(TensorLaw, FailsWhereTtftRises) {
  EXPECT_EQ(law(with_tp2(14, 0.1), "tp").verdict, Verdict::kFails);
}

TEST(TensorLaw, IsUndecidedWhereCoresAreSharedOrNothingIsToldApart) {
  EXPECT_EQ(law(with_tp2(6, 0.1, /*cores=*/1), "tp").verdict, Verdict::kUndecided);
  EXPECT_EQ(law(with_tp2(10, 0.1), "tp").verdict, Verdict::kUndecided);
}

VerifyReport with_dp2(double scaled_tok_s) {
  SchemeResult one = scheme_of({});
  add_runs(one, kEight, {run_of(10, 2, 100), run_of(10, 2, 102), run_of(10, 2, 101)});
  SchemeResult dp2 = scheme_of({.dp = 2});
  add_runs(dp2, kSixteen,
           {run_of(10, 2, scaled_tok_s), run_of(10, 2, scaled_tok_s + 4),
            run_of(10, 2, scaled_tok_s + 2)});
  return report_of({one, dp2}, 2);
}

TEST(DataLaw, HoldsAtTwiceTheLoadOnlyIfThroughputDoubles) {
  EXPECT_EQ(law(with_dp2(199), "dp").verdict, Verdict::kHolds);
  EXPECT_EQ(law(with_dp2(150), "dp").verdict, Verdict::kFails);
}

TEST(DataLaw, IsUndecidedWithoutAPointThatGrows) {
  SchemeResult one = scheme_of({});
  add_runs(one, kOne, {run_of(10, 2, 100)});
  SchemeResult dp2 = scheme_of({.dp = 2});
  add_runs(dp2, kOne, {run_of(10, 2, 100)});
  const Law found = law(report_of({one, dp2}, 2), "dp");
  EXPECT_EQ(found.verdict, Verdict::kUndecided);
  EXPECT_NE(found.evidence.find("needs one device"), std::string::npos);
}

TEST(PipelineLaw, HoldsWhereMemoryFallsAndTimePerTokenDoesNot) {
  SchemeResult one = scheme_of({});
  add_runs(one, kOne, {run_of(10, 2, 100), run_of(10, 2.1, 100)});
  SchemeResult pp2 = scheme_of({.pp = 2});
  add_runs(pp2, kOne, {run_of(10, 2.2, 100), run_of(10, 2.3, 100)});
  EXPECT_EQ(law(report_of({one, pp2}, 2), "pp").verdict, Verdict::kHolds);
  SchemeResult faster = scheme_of({.pp = 2});
  add_runs(faster, kOne, {run_of(10, 1.2, 100), run_of(10, 1.3, 100)});
  EXPECT_EQ(law(report_of({one, faster}, 2), "pp").verdict, Verdict::kFails);
}

TEST(PipelineLaw, IsUndecidedWhereAGainCannotBeRuledOut) {
  SchemeResult one = scheme_of({});
  add_runs(one, kOne, {run_of(10, 2, 100), run_of(10, 3, 100)});
  SchemeResult pp2 = scheme_of({.pp = 2});
  add_runs(pp2, kOne, {run_of(10, 3, 100), run_of(10, 2, 100)});
  EXPECT_EQ(law(report_of({one, pp2}, 2), "pp").verdict, Verdict::kUndecided);
  SchemeResult once = scheme_of({});
  add_runs(once, kOne, {run_of(10, 2, 100)});
  SchemeResult pp2_once = scheme_of({.pp = 2});
  add_runs(pp2_once, kOne, {run_of(10, 3, 100)});
  EXPECT_EQ(law(report_of({once, pp2_once}, 2), "pp").verdict, Verdict::kUndecided);
}

TEST(Laws, OfExpertsAreUndecidedWithoutExperts) {
  const Law found = law(with_tp2(6, 0.1), "ep");
  EXPECT_EQ(found.verdict, Verdict::kUndecided);
  EXPECT_EQ(found.evidence, "the model has no experts");
}

/// A model with experts, tp2 and tp2ep2, the latter with these times per token.
VerifyReport with_ep2(double first_ms, double second_ms) {
  SchemeResult tp2 = scheme_of({.tp = 2});
  add_runs(tp2, kOne, {run_of(10, 2, 100), run_of(10, 2.1, 100)});
  SchemeResult ep2 = scheme_of({.tp = 2, .ep = 2});
  add_runs(ep2, kOne, {run_of(10, first_ms, 100), run_of(10, second_ms, 100)});
  VerifyReport report = report_of({tp2, ep2}, 2);
  report.has_experts = true;
  return report;
}

TEST(ExpertLaw, ComparesASchemeWithItsTwinWithoutEp) {
  EXPECT_EQ(law(with_ep2(3, 3.1), "ep").verdict, Verdict::kHolds);
  EXPECT_EQ(law(with_ep2(1, 1.1), "ep").verdict, Verdict::kFails);
  EXPECT_EQ(law(with_ep2(1, 3), "ep").verdict, Verdict::kUndecided);
  EXPECT_NE(law(with_ep2(3, 3.1), "ep").evidence.find("tp2ep2 TPOT 3.05 ms against 2.05 ms of tp2"),
            std::string::npos);
}

TEST(ExpertLaw, NeedsTheTwin) {
  VerifyReport report = with_ep2(3, 3.1);
  report.schemes.front().failure = "killed";
  const Law found = law(report, "ep");
  EXPECT_EQ(found.verdict, Verdict::kUndecided);
  EXPECT_NE(found.evidence.find("needs a scheme with ep"), std::string::npos);
}

}  // namespace
}  // namespace fourfold::verify
