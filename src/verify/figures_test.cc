#include "verify/figures.h"

#include <gmock/gmock.h>

#include "verify/report_for_test.h"

namespace fourfold::verify {
namespace {

using testing::ElementsAre;

TEST(Figures, SplitADevicesTimeIntoPartsThatAddUpToOne) {
  SchemeResult tp2 = scheme_of({.tp = 2});
  add_runs(tp2, kOne, {run_of(1, 1, 100), run_of(1, 1, 100)}, /*tp_seconds=*/0.25);
  const Figures f = figures(tp2, tp2.loads.at(kOne));
  EXPECT_DOUBLE_EQ(f.busy, 0.6);
  EXPECT_DOUBLE_EQ(f.axis(mesh::Axis::kTensor).share, 0.25);
  EXPECT_DOUBLE_EQ(f.axis(mesh::Axis::kTensor).wait_share, 0.125);
  EXPECT_DOUBLE_EQ(f.busy + f.axis(mesh::Axis::kTensor).share + f.other, 1.0);
  EXPECT_EQ(f.axis(mesh::Axis::kPipeline).calls, 0);
}

TEST(Figures, MfuAndMbuAreSharesOfWhatAllDevicesReachTogether) {
  SchemeResult tp2 = scheme_of({.tp = 2});
  add_runs(tp2, kOne, {run_of(1, 1, 100)});
  const Figures f = figures(tp2, tp2.loads.at(kOne));
  EXPECT_DOUBLE_EQ(f.mfu.value(), 0.4);
  EXPECT_DOUBLE_EQ(f.mbu.value(), 0.5);
  tp2.peaks.reset();
  EXPECT_FALSE(figures(tp2, tp2.loads.at(kOne)).mfu.has_value());
}

TEST(Figures, OfTheGpusCountersAreMeansOfTheRepeatsThatHaveThem) {
  LoadResult load;
  EXPECT_FALSE(mean_activity(load).busy);
  load.activity = {{.busy = 0.5, .sm_active = 0.25, .dram_active = {}, .power_w = 100},
                   {.busy = 1.0, .sm_active = {}, .dram_active = {}, .power_w = 300}};
  const backend::Activity mean = mean_activity(load);
  EXPECT_DOUBLE_EQ(mean.busy.value(), 0.75);
  EXPECT_DOUBLE_EQ(mean.sm_active.value(), 0.25);
  EXPECT_FALSE(mean.dram_active);
  EXPECT_DOUBLE_EQ(mean.power_w.value(), 200);
}

/// A run of two ranks over one layer with two experts; the exchange takes a fifth of the time, most
/// of it waiting.
LoadResult expert_run() {
  RunCost run{.wall_s = 1, .ranks = 2, .steps = 10, .zero_row_steps = 2};
  run.comm[mesh::Axis::kExpert] = {.seconds = 0.4, .wait_seconds = 0.3, .bytes = 100, .calls = 20};
  run.experts[1] += {.rows = {30, 0}, .rank_rows = {30}, .steps = 8, .distinct = 8};
  run.experts[1] += {.rows = {0, 10}, .rank_rows = {10}, .steps = 4, .distinct = 4};
  LoadResult load;
  load.costs = {run, run};
  return load;
}

TEST(ExpertFigures, SayHowEvenlyRanksWorkedAndWhatHoldsThemUp) {
  const LoadResult load = expert_run();
  const Figures f = figures(scheme_of({.tp = 2, .ep = 2}), load);
  EXPECT_DOUBLE_EQ(f.axis(mesh::Axis::kExpert).share, 0.2);
  const std::optional<ExpertFigures> experts = expert_figures(load, f);
  ASSERT_TRUE(experts);
  EXPECT_DOUBLE_EQ(experts->imbalance, 1.5);
  EXPECT_DOUBLE_EQ(experts->distinct_per_step, 1.0);
  EXPECT_DOUBLE_EQ(experts->zero_row_share, 0.2);
  EXPECT_THAT(experts->layers.at(1).rows, ElementsAre(60, 20));
  EXPECT_EQ(experts->binds,
            "waiting for slower ranks (15 % of the time); 20 % of the steps only for other "
            "replicas' rows; the fullest rank computes 1.50 times the mean");
}

TEST(ExpertFigures, NameTheMovingOfRowsWhereItTakesMoreThanWaiting) {
  LoadResult load = expert_run();
  for (RunCost& run : load.costs) run.comm[mesh::Axis::kExpert].wait_seconds = 0.1;
  EXPECT_EQ(expert_figures(load, figures(scheme_of({.tp = 2, .ep = 2}), load))->binds,
            "moving rows (15 % of the time)");
  for (RunCost& run : load.costs) run.comm[mesh::Axis::kExpert].seconds = 0.15;
  EXPECT_EQ(expert_figures(load, figures(scheme_of({.tp = 2, .ep = 2}), load))->binds,
            "not the exchange (8 % of the time)");
  for (RunCost& run : load.costs) run.comm.clear();
  EXPECT_EQ(expert_figures(load, figures(scheme_of({.dp = 2}), load))->binds,
            "nothing: no rows travel");
}

TEST(ExpertFigures, OfEachLayerAreItsOwnAndOfAllWeighThemByRows) {
  LoadResult load = expert_run();
  for (RunCost& run : load.costs) {
    run.experts[2] += {.rows = {20, 0}, .rank_rows = {20}, .steps = 4, .distinct = 8};
    run.experts[2] += {.rows = {0, 20}, .rank_rows = {20}, .steps = 4, .distinct = 8};
  }
  const Figures f = figures(scheme_of({.tp = 2, .ep = 2}), load);
  const std::optional<ExpertFigures> experts = expert_figures(load, f);
  ASSERT_TRUE(experts);
  EXPECT_DOUBLE_EQ(experts->imbalance, (30.0 + 20.0) / (20.0 + 20.0));
  EXPECT_DOUBLE_EQ(experts->distinct_per_step, 28.0 / 20.0);
  EXPECT_DOUBLE_EQ(experts->layers.at(1).imbalance, 1.5);
  EXPECT_DOUBLE_EQ(experts->layers.at(1).distinct_per_step, 1);
  EXPECT_DOUBLE_EQ(experts->layers.at(2).imbalance, 1);
  EXPECT_DOUBLE_EQ(experts->layers.at(2).distinct_per_step, 2);
}

TEST(ExpertFigures, ADenseModelHasNone) {
  SchemeResult one = scheme_of({});
  add_runs(one, kOne, {run_of(1, 1, 100)});
  EXPECT_FALSE(expert_figures(one.loads.at(kOne), figures(one, one.loads.at(kOne))));
}

VerifyReport two_schemes() {
  SchemeResult one = scheme_of({});
  add_runs(one, kEight, {run_of(10, 2, 100), run_of(12, 2, 110)});
  add_runs(one, kSixteen, {run_of(20, 2, 120), run_of(21, 2, 121)});
  SchemeResult dp2 = scheme_of({.dp = 2});
  add_runs(dp2, kEight, {run_of(9, 2.5, 120), run_of(11, 2.5, 130)});
  add_runs(dp2, kSixteen, {run_of(9, 2, 200), run_of(11, 2, 218)});
  return report_of({one, dp2}, /*cores=*/2);
}

TEST(Efficiency, IsPerDeviceAtTheSameAndAtAGrowingLoad) {
  const VerifyReport report = two_schemes();
  const SchemeResult& dp2 = report.schemes[1];
  EXPECT_DOUBLE_EQ(efficiency_same_load(report, dp2, kEight).value(), 125.0 / 2 / 105);
  EXPECT_DOUBLE_EQ(efficiency_growing_load(report, dp2, kSixteen).value(), 209.0 / 2 / 105);
  EXPECT_FALSE(efficiency_growing_load(report, dp2, kEight).has_value());
  EXPECT_DOUBLE_EQ(efficiency_growing_load(report, report.schemes[0], kEight).value(), 1.0);
}

TEST(Winners, ADifferencePairedByRepeatWinsAndOneWithinTheNoiseIsATie) {
  const VerifyReport report = two_schemes();
  const std::map<std::string, Winner> at = winners(report, kEight);
  EXPECT_EQ(mesh::scheme_name(at.at("throughput").scheme->scheme), "dp2");
  EXPECT_TRUE(at.at("throughput").tie.empty());  // 20 more in both repeats
  EXPECT_DOUBLE_EQ(at.at("throughput").value, 125);
  EXPECT_EQ(mesh::scheme_name(at.at("tpot").scheme->scheme), "tp1");
  EXPECT_FALSE(at.contains("goodput"));
  const std::map<std::string, Winner> noisy = [] {
    SchemeResult one = scheme_of({});
    add_runs(one, kEight, {run_of(10, 2, 100), run_of(12, 2, 110)});
    SchemeResult dp2 = scheme_of({.dp = 2});
    add_runs(dp2, kEight, {run_of(11, 2, 99), run_of(10.5, 2, 112)});
    return winners(report_of({one, dp2}, 2), kEight);
  }();
  EXPECT_THAT(noisy.at("ttft").tie, ElementsAre("tp1"));
}

TEST(Winners, NameTheResourceThatBinds) {
  const VerifyReport report = two_schemes();
  EXPECT_EQ(winners(report, kEight).at("throughput").limit, "memory bandwidth (50 %)");
  SchemeResult tp2 = scheme_of({.tp = 2});
  add_runs(tp2, kEight, {run_of(1, 1, 1000)}, /*tp_seconds=*/0.9);
  EXPECT_EQ(winners(report_of({tp2}, 2), kEight).at("ttft").limit, "TP communication (90 %)");
  SchemeResult fast = scheme_of({});
  add_runs(fast, kEight, {run_of(1, 1, 100)});
  fast.peaks->read_bytes_s /= 4;
  EXPECT_EQ(winners(report_of({fast}, 2), kEight).at("ttft").limit,
            "memory bandwidth (200 % of a peak probed while the machine was slower)");
}

TEST(Winners, ASaturatedPointHasNoLatencyWinnerButAMemoryWinner) {
  SchemeResult one = scheme_of({});
  load::RunMetrics run = run_of(10, 2, 100);
  run.saturated = true;
  add_runs(one, LoadPoint{.rate = 4}, {run});
  const VerifyReport report = report_of({one}, 2);
  const std::map<std::string, Winner> at = winners(report, LoadPoint{.rate = 4});
  EXPECT_FALSE(at.contains("ttft"));
  EXPECT_TRUE(at.contains("memory"));
}

TEST(Definitions, EveryFigureThatIsPrintedHasOne) {
  std::vector<std::string> names;
  for (const auto& [name, sentence] : definitions()) {
    names.push_back(name);
    EXPECT_GT(sentence.size(), 20U) << name;
  }
  EXPECT_THAT(names, testing::IsSupersetOf({"ttft_ms", "tpot_ms", "itl_ms", "device_busy", "mfu",
                                            "mbu", "efficiency", "comm", "tie"}));
}

TEST(Winners, DoNotIncludeASchemeWithOtherAnswers) {
  VerifyReport report = two_schemes();
  ASSERT_EQ(winners(report, kSixteen).at("throughput").scheme->scheme.dp, 2);
  report.schemes[1].answers->equal = false;
  for (const auto& [objective, winner] : winners(report, kSixteen)) {
    EXPECT_EQ(winner.scheme->scheme.dp, 1) << objective;
    EXPECT_TRUE(winner.tie.empty()) << objective;
  }
}

TEST(Winners, OfGoodputStandEvenWhereASchemeMetNothing) {
  VerifyReport report = two_schemes();
  report.options.slo.ttft_ms = 10;
  for (load::RunMetrics& run : report.schemes[1].loads.at(kEight).repeats) run.goodput_rps = 0;
  EXPECT_EQ(winners(report, kEight).at("goodput").scheme->scheme.dp, 1);
  for (load::RunMetrics& run : report.schemes[0].loads.at(kEight).repeats) run.goodput_rps = 0;
  EXPECT_FALSE(winners(report, kEight).contains("goodput"));
}

}  // namespace
}  // namespace fourfold::verify
