#include "verify/load_plan.h"

#include <gmock/gmock.h>

namespace fourfold::verify {
namespace {

using testing::ElementsAre;

TEST(LoadPoint, IsDividedByTheRatioOfDevicesWhereRequestsStayWhole) {
  EXPECT_EQ(LoadPoint{.concurrency = 16}.divided(2, 1), LoadPoint{.concurrency = 8});
  EXPECT_EQ(LoadPoint{.concurrency = 16}.divided(8, 4), LoadPoint{.concurrency = 8});
  EXPECT_FALSE(LoadPoint{.concurrency = 3}.divided(2, 1).has_value());
  EXPECT_EQ(LoadPoint{.rate = 5}.divided(2, 1), LoadPoint{.rate = 2.5});
  EXPECT_EQ(LoadPoint{.rate = 2.5}.name(), "2.5/s");
  EXPECT_EQ(LoadPoint{.concurrency = 8}.name(), "c8");
}

TEST(LoadPlan, PointsAreConcurrenciesOrRatesOrDoublings) {
  VerifyOptions options;
  options.concurrencies = {4, 1};
  EXPECT_THAT(load_points(options),
              ElementsAre(LoadPoint{.concurrency = 4}, LoadPoint{.concurrency = 1}));
  EXPECT_EQ(load_kind(options), "closed");
  options.sweep = true;
  EXPECT_EQ(load_points(options).size(), 9U);
  EXPECT_EQ(load_points(options).back().concurrency, kMostConcurrency);
  options.rates = {2, 0.5};
  EXPECT_THAT(load_points(options), ElementsAre(LoadPoint{.rate = 2}, LoadPoint{.rate = 0.5}));
  EXPECT_EQ(load_kind(options), "poisson");
  options.burstiness = 0.5;
  EXPECT_EQ(load_kind(options), "gamma");
}

TEST(LoadPlan, ATraceInItsOwnTimeIsOnePointAtItsMeanRate) {
  VerifyOptions options;
  options.concurrencies.clear();
  options.trace = TraceOptions{.path = "trace", .trace = {}};
  for (int i = 0; i < 100; ++i) {
    options.trace->trace.records.push_back(
        {.arrival_s = 0.5 * i, .input_tokens = 10 + i, .output_tokens = 2});
  }
  options.requests = 41;
  const std::vector<LoadPoint> points = load_points(options);
  ASSERT_EQ(points.size(), 1U);
  EXPECT_NEAR(points[0].rate, 41 / 20.0, 1e-9);
  const auto workload = make_workload(options, points[0], 0, 1000, 200);
  ASSERT_TRUE(workload.ok());
  const load::RunOptions run = run_options(options, points[0], 0, *workload);
  ASSERT_EQ(run.arrivals_s.size(), 41U);
  EXPECT_NEAR(run.arrivals_s.back(), 20, 1e-9);
  EXPECT_EQ(longest_sequence(options, 200).value(), 10 + 40 + 2);
  EXPECT_FALSE(longest_sequence(options, 40).ok());
}

TEST(LoadPlan, RepeatsDrawOtherPromptsAndSchemesTheSame) {
  VerifyOptions options;
  const auto draw = [&](int repeat) {
    return load::make_requests(
        make_workload(options, {.concurrency = 8}, repeat, 1000, 512).value());
  };
  EXPECT_EQ(draw(0).size(), 16U);
  EXPECT_EQ(draw(0)[3].prompt, draw(0)[3].prompt);
  EXPECT_NE(draw(0)[3].prompt, draw(1)[3].prompt);
}

}  // namespace
}  // namespace fourfold::verify
