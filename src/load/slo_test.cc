#include "load/slo.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "load/metrics.h"

namespace fourfold::load {
namespace {

using testing::HasSubstr;

TEST(Slo, ReadsBoundsWithUnitsAndAPercentile) {
  const auto slo = parse_slo("ttft=0.5s,tpot=50ms,e2e=9000000us,p99");
  ASSERT_TRUE(slo.ok()) << slo.error().message;
  EXPECT_EQ(*slo, (Slo{.ttft_ms = 500, .tpot_ms = 50, .e2e_ms = 9000, .percentile = 99}));
  EXPECT_EQ(to_string(*slo), "ttft=500ms,tpot=50ms,e2e=9000ms,p99");
  EXPECT_EQ(parse_slo("tpot=50ms")->percentile, 90);
}

TEST(Slo, RefusesWhatItDoesNotUnderstandAndNamesIt) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "\"\""},
      {"p95", "bounds nothing"},
      {"ttft=500", "\"ttft=500\""},
      {"ttft=ms", "\"ttft=ms\""},
      {"ttft=-5ms", "positive time"},
      {"ttft=0ms", "positive time"},
      {"ttft=1e999s", "positive time"},
      {"ttft=99999999999999999999ms", "to 1000000s"},
      {"ttft=0.0000001us", "from 1us"},
      {"itl=5ms", "expected ttft=, tpot= or e2e="},
      {"ttft=5ms,ttft=6ms", "twice"},
      {"ttft=5ms,", "\"\""},
      {"ttft=5ms,p100", "from p50 to p99.9"},
      {"ttft=5ms,pnan", "from p50 to p99.9"},
  };
  for (const auto& [text, expected] : cases) {
    const auto slo = parse_slo(text);
    ASSERT_FALSE(slo.ok()) << text;
    EXPECT_THAT(slo.error().message, HasSubstr(expected)) << text;
  }
}

RunMetrics run_with_ttfts(std::vector<double> ttft_ms) { return {.ttft_ms = std::move(ttft_ms)}; }

TEST(Slo, IsMetByThePercentileItNames) {
  std::vector<double> ttft(100, 10.0);
  ttft[7] = 1000;
  EXPECT_TRUE(*meets({.ttft_ms = 10, .percentile = 90}, run_with_ttfts(ttft)));
  EXPECT_FALSE(*meets({.ttft_ms = 10, .percentile = 99}, run_with_ttfts(ttft)));
}

TEST(Slo, IsNotMetBeyondCapacityOrWithFailures) {
  RunMetrics run = run_with_ttfts(std::vector<double>(100, 1.0));
  EXPECT_TRUE(*meets({.ttft_ms = 10}, run));
  run.saturated = true;
  EXPECT_FALSE(*meets({.ttft_ms = 10}, run));
  run.saturated = false;
  run.failed = 1;
  EXPECT_FALSE(*meets({.ttft_ms = 10}, run));
}

TEST(Slo, CannotBeJudgedFromTooFewRequestsOrAnInvalidRun) {
  RunMetrics run = run_with_ttfts(std::vector<double>(50, 1.0));
  const auto few = meets({.ttft_ms = 10, .percentile = 99}, run);
  ASSERT_FALSE(few.ok());
  EXPECT_THAT(few.error().message, HasSubstr("50 requests are too few for the p99"));
  run.invalid_reason = "too late";
  EXPECT_FALSE(meets({.ttft_ms = 10}, run).ok());
}

}  // namespace
}  // namespace fourfold::load
