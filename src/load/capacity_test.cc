#include "load/capacity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "load/arrivals.h"
#include "load/simulated_time_test.h"

namespace fourfold::load {
namespace {

using testing::Optional;
using testing::SizeIs;

constexpr double kServiceS = 0.1;

/// A run of `requests` at `utilisation` of what the server can do, with exponential service times.
LoadRun queue_run(int places, double utilisation, int32_t requests, uint64_t seed) {
  SimulatedClock clock;
  SimulatedServer server(clock, places, [seed](size_t index) {
    return static_cast<int64_t>(-std::log(uniform(seed, index)) * kServiceS * 1e9);
  });
  const Workload workload = synthetic_workload(
      {.input_len = 1, .output_len = 2, .conversations = requests, .vocab = 10, .seed = seed});
  const std::vector<double> arrivals = draw_arrivals(
      static_cast<size_t>(requests), {.rate = utilisation * places / kServiceS, .seed = seed});
  auto run = run_load(workload, {.arrivals_s = arrivals}, clock, server.submit());
  CHECK(run.ok(), "{}", run.error().message);
  return std::move(run).value();
}

double share_saturated(int places, double utilisation, int32_t requests) {
  constexpr int kRuns = 100;
  int saturated = 0;
  for (uint64_t seed = 0; seed < kRuns; ++seed) {
    saturated += queue_run(places, utilisation, requests, seed).metrics.saturated ? 1 : 0;
  }
  return static_cast<double>(saturated) / kRuns;
}

TEST(Capacity, IsNotExceededBelowIt) {
  for (const int places : {1, 16}) {
    EXPECT_LE(share_saturated(places, 0.5, 100), 0.01) << places;
    EXPECT_LE(share_saturated(places, 0.8, 100), 0.04) << places;
    EXPECT_LE(share_saturated(places, 0.9, 300), 0.05) << places;
  }
}

TEST(Capacity, IsExceededAboveIt) {
  for (const int places : {1, 16}) {
    EXPECT_GE(share_saturated(places, 2, 100), 0.9) << places;
    EXPECT_GE(share_saturated(places, 1.5, 300), 0.9) << places;
  }
}

TEST(Capacity, IsNotExceededWhileAnEngineStillFills) {
  // Every request takes 1 s, there is room for all, and all come within 2 s.
  std::vector<RequestLog> logs;
  for (int64_t i = 0; i < 100; ++i) {
    const int64_t at_ns = i * 20'000'000;
    logs.push_back({.scheduled_ns = at_ns, .sent_ns = at_ns, .chunks = {{at_ns + 1'000'000'000}}});
  }
  EXPECT_FALSE(capacity_exceeded(logs));
}

TEST(Capacity, IsNotJudgedFromFewRequestsOrOneMoment) {
  const auto overload = [](int64_t requests, int64_t gap_ns) {
    std::vector<RequestLog> logs;
    for (int64_t i = 0; i < requests; ++i) {
      logs.push_back({.scheduled_ns = i * gap_ns, .chunks = {{(i + 1) * 3'000'000}}});
    }
    return logs;
  };
  EXPECT_TRUE(capacity_exceeded(overload(20, 1'000'000)));
  EXPECT_FALSE(capacity_exceeded(overload(19, 1'000'000)));
  EXPECT_FALSE(capacity_exceeded(overload(100, 0)));
}

TEST(Capacity, ExceededHidesLatenciesAndLeavesRates) {
  const std::vector<RunMetrics> repeats = {queue_run(1, 0.5, 100, 1).metrics,
                                           queue_run(1, 3, 100, 1).metrics};
  const LoadSummary one = summarize(std::span(repeats).first(1));
  EXPECT_FALSE(one.saturated);
  EXPECT_TRUE(one.ttft_ms.mean.has_value());
  const LoadSummary both = summarize(repeats);
  EXPECT_TRUE(both.saturated);
  for (const Summary& s : {both.ttft_ms, both.tpot_ms, both.itl_ms, both.e2e_ms}) {
    EXPECT_EQ(s.mean, std::nullopt);
    EXPECT_EQ(s.p50, std::nullopt);
  }
  EXPECT_TRUE(both.output_tok_s.mean.has_value());
  EXPECT_EQ(both.requests, 200);
}

TEST(Sweep, IsSaturatedWhenADoublingGainsLessThanFivePercent) {
  EXPECT_FALSE(sweep_saturated(std::vector<SweepPoint>{{1, 100}}));
  EXPECT_FALSE(sweep_saturated(std::vector<SweepPoint>{{1, 100}, {2, 106}}));
  EXPECT_TRUE(sweep_saturated(std::vector<SweepPoint>{{1, 100}, {2, 180}, {4, 188}}));
  EXPECT_TRUE(sweep_saturated(std::vector<SweepPoint>{{4, 100}, {8, 90}}));
  // 8 % for a quadrupling are less than 4 % for a doubling; 4 % for a tenth more are much more.
  EXPECT_TRUE(sweep_saturated(std::vector<SweepPoint>{{1, 100}, {4, 108}}));
  EXPECT_FALSE(sweep_saturated(std::vector<SweepPoint>{{10, 100}, {11, 104}}));
}

TEST(RateSearch, BracketsTheHighestRateFromEitherSide) {
  for (const double truth : {0.03, 0.9, 1.0, 7.3, 100.0}) {
    const auto search = search_rate(
        {.max_runs = 20}, [&](double rate) -> base::Result<bool> { return rate <= truth; });
    ASSERT_TRUE(search.ok());
    ASSERT_TRUE(search->met && search->missed) << truth;
    EXPECT_LE(*search->met, truth);
    EXPECT_GT(*search->missed, truth);
    EXPECT_LE(*search->width(), 0.05);
    EXPECT_LE(search->probes.size(), 14U);
  }
}

TEST(RateSearch, StopsAtItsBoundOfRuns) {
  const auto never =
      search_rate({.max_runs = 4}, [](double) -> base::Result<bool> { return false; });
  ASSERT_TRUE(never.ok());
  EXPECT_EQ(never->met, std::nullopt);
  EXPECT_THAT(never->missed, Optional(0.125));
  EXPECT_EQ(never->width(), std::nullopt);
  EXPECT_THAT(never->probes, SizeIs(4));
  const auto always =
      search_rate({.max_runs = 3}, [](double) -> base::Result<bool> { return true; });
  EXPECT_THAT(always->met, Optional(4));
}

TEST(RateSearch, PassesOnWhyARunFailed) {
  const auto search =
      search_rate({}, [](double) -> base::Result<bool> { return base::fail("rank 2 died"); });
  ASSERT_FALSE(search.ok());
  EXPECT_EQ(search.error().message, "rank 2 died");
}

TEST(RateSearch, FindsWhatASimulatedQueueCanHold) {
  // M/M/1 with 10 requests/s: the p90 of the time in it is ln(10) / (10 - rate), below 1 s up to
  // a rate of 7.7.
  const Slo slo{.e2e_ms = 1000};
  const auto search = search_rate({.first_rate = 2}, [&](double rate) {
    return meets(slo, queue_run(1, rate * kServiceS, 3000, 6).metrics);
  });
  ASSERT_TRUE(search.ok()) << search.error().message;
  ASSERT_TRUE(search->met.has_value());
  EXPECT_NEAR(*search->met, 7.7, 0.8);
}

}  // namespace
}  // namespace fourfold::load
