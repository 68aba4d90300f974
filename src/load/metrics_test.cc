#include "load/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::load {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::IsSupersetOf;

constexpr int64_t kMs = 1'000'000;

TEST(Metrics, FollowTheDefinitionsOfVllmBenchServe) {
  const std::vector<RequestLog> log = {
      {.chunks = {{100 * kMs}, {110 * kMs}, {130 * kMs}}, .prompt_tokens = 8},
      {.scheduled_ns = 50 * kMs, .sent_ns = 50 * kMs, .chunks = {{250 * kMs}}, .prompt_tokens = 4},
      {.scheduled_ns = 60 * kMs, .sent_ns = 60 * kMs, .prompt_tokens = 4, .failed = true},
  };
  const RunMetrics m = measure(log);
  EXPECT_THAT(m.ttft_ms, ElementsAre(100, 200));
  EXPECT_THAT(m.tpot_ms, ElementsAre(15));
  EXPECT_THAT(m.itl_ms, ElementsAre(10, 20));
  EXPECT_THAT(m.e2e_ms, ElementsAre(130, 200));
  EXPECT_DOUBLE_EQ(m.duration_s, 0.25);
  EXPECT_DOUBLE_EQ(m.output_tok_s, 4 / 0.25);
  EXPECT_DOUBLE_EQ(m.total_tok_s, 16 / 0.25);
  EXPECT_DOUBLE_EQ(m.requests_s, 2 / 0.25);
  EXPECT_EQ(m.failed, 1);
}

TEST(Metrics, CountTokensThatCameTogetherAndOneGapForThem) {
  const std::vector<RequestLog> log = {{.chunks = {{10 * kMs, 2}, {40 * kMs, 3}}}};
  const RunMetrics m = measure(log);
  EXPECT_THAT(m.itl_ms, ElementsAre(30));
  EXPECT_THAT(m.tpot_ms, ElementsAre(30.0 / 4));
  EXPECT_THAT(m.tok_s_user, ElementsAre(4000.0 / 30));
  EXPECT_DOUBLE_EQ(m.output_tok_s, 5 / 0.04);
}

TEST(Metrics, CallARequestGoodThatKeepsEveryBound) {
  const std::vector<RequestLog> log = {
      {.chunks = {{10 * kMs}, {30 * kMs}}},   // TPOT 20
      {.chunks = {{20 * kMs}, {30 * kMs}}},   // TTFT 20
      {.chunks = {{10 * kMs}}},               // one token: TPOT counts as 0
      {.chunks = {{10 * kMs}, {20 * kMs}}},   // at both bounds
      {.chunks = {{100 * kMs}, {101 * kMs}}}  // late
  };
  const RunMetrics m = measure(log, {.ttft_ms = 10, .tpot_ms = 10});
  EXPECT_NEAR(m.goodput_rps, 2 / 0.101, 1e-9);
  EXPECT_NEAR(measure(log).goodput_rps, m.requests_s, 1e-9);
  EXPECT_NEAR(measure(log, {.e2e_ms = 30}).goodput_rps, 4 / 0.101, 1e-9);
}

TEST(Metrics, HaveADefinitionForEachOfTheirNames) {
  std::vector<std::string> names;
  for (const auto& [name, sentence] : definitions()) {
    names.push_back(name);
    EXPECT_TRUE(sentence.ends_with('.')) << name;
  }
  EXPECT_THAT(names,
              IsSupersetOf({"ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "output_tok_s", "total_tok_s",
                            "requests_s", "goodput_rps", "output_tok_s_user", "send_lateness_ms"}));
}

TEST(LoadSummary, CarriesWhyARepeatIsInvalid) {
  std::vector<RunMetrics> repeats(3);
  repeats[1].invalid_reason = "late";
  EXPECT_EQ(summarize(repeats).invalid_reason, "late");
  EXPECT_EQ(summarize(std::span(repeats).first(1)).invalid_reason, "");
}

TEST(Metrics, OfNothingAreEmpty) {
  const RunMetrics m = measure({});
  EXPECT_THAT(m.ttft_ms, IsEmpty());
  EXPECT_DOUBLE_EQ(m.output_tok_s, 0);
}

}  // namespace
}  // namespace fourfold::load
