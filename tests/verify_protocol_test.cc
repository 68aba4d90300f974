// The protocol of verify on real ranks: what is proven, in which numerics, order and state of the
// cache each scheme is timed, and that nothing of a load is left out in silence.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "load/trace.h"
#include "verify/run.h"

namespace fourfold::verify {
namespace {

using testing::ElementsAre;

VerifyOptions tiny() {
  VerifyOptions options;
  options.cluster.model = "tiny";
  options.cluster.ranks = runtime::RankMode::kThreads;
  options.schemes = {{}, {.tp = 2}};
  options.input_len = 40;
  options.output_len = 4;
  options.concurrencies = {4};
  options.repeats = 2;
  return options;
}

VerifyReport report_of(const VerifyOptions& options, std::vector<std::string>* progress = nullptr) {
  base::Result<VerifyReport> report = run(options, [&](const std::string& line) {
    if (progress != nullptr) progress->push_back(line);
  });
  EXPECT_TRUE(report.ok()) << report.error().message;
  EXPECT_TRUE(report->ok());
  return std::move(report).value();
}

TEST(Protocol, FastNumericsDeviateWithinRoundingAndOnlyAtNearTies) {
  VerifyOptions options = tiny();
  options.schemes = {{}, {.tp = 2}, {.pp = 2, .tp = 4}, {.pp = 2, .dp = 2}};
  const VerifyReport report = report_of(options);
  for (const SchemeResult& r : report.schemes) {
    SCOPED_TRACE(mesh::scheme_name(r.scheme));
    ASSERT_TRUE(r.fast_answers.has_value());
    EXPECT_GT(r.fast_answers->compared_tokens, 50);
    EXPECT_LT(r.fast_answers->max_logprob_diff, 0.1);
    EXPECT_EQ(r.fast_answers->near_ties, r.fast_answers->differences);
    EXPECT_TRUE(r.invariant_cost.has_value());
  }
  // Another order of additions must show, else fast numerics did not run.
  EXPECT_GT(report.find({.tp = 2})->fast_answers->max_logprob_diff, 0);
}

TEST(Protocol, InvariantNumericsHaveNothingToDeviateFrom) {
  VerifyOptions options = tiny();
  options.numerics = base::Numerics::kInvariant;
  for (const SchemeResult& r : report_of(options).schemes) {
    EXPECT_FALSE(r.fast_answers.has_value());
    const LoadResult& load = r.loads.at({.concurrency = 4});
    EXPECT_EQ(load.repeats.size(), 2U);
    for (const RunCost& cost : load.costs) EXPECT_EQ(cost.fast_steps, 0);
  }
}

TEST(Protocol, InterleavesSchemesAndWarmsUpBeforeEachRun) {
  std::vector<std::string> all;
  report_of(tiny(), &all);
  std::vector<std::string> steps;
  for (const std::string& line : all) {
    const std::string subject = line.substr(0, line.rfind(':'));
    const bool wanted = subject.find("repeat") != std::string::npos ||
                        subject.find("warming up") != std::string::npos;
    if (wanted && (steps.empty() || steps.back() != subject)) steps.push_back(subject);
  }
  EXPECT_THAT(steps, ElementsAre("tp1: warming up", "tp1: repeat 1/2, c4", "tp2: warming up",
                                 "tp2: repeat 1/2, c4", "tp1: warming up", "tp1: repeat 2/2, c4",
                                 "tp2: warming up", "tp2: repeat 2/2, c4"));
}

TEST(Protocol, FindsNothingInThePrefixCacheUnlessPromptsShareIt) {
  // The warm-up sends the first prompt of the run: without clearing it would be found.
  EXPECT_EQ(report_of(tiny()).schemes[0].loads.at({.concurrency = 4}).hit_tokens, 0);
  VerifyOptions sharing = tiny();
  sharing.shared_prefix = 64;
  EXPECT_GT(report_of(sharing).schemes[0].loads.at({.concurrency = 4}).kv_hit_rate(), 0.3);
}

TEST(Protocol, PeaksAndCostsAreOfAllRanks) {
  const VerifyReport report = report_of(tiny());
  for (const SchemeResult& r : report.schemes) {
    SCOPED_TRACE(mesh::scheme_name(r.scheme));
    ASSERT_TRUE(r.peaks.has_value());
    EXPECT_GT(r.peaks->matmul_flop_s, 0);
    const LoadResult& load = r.loads.at({.concurrency = 4});
    ASSERT_EQ(load.costs.size(), 2U);
    for (const RunCost& cost : load.costs) {
      EXPECT_EQ(cost.ranks, r.scheme.devices());
      EXPECT_GT(cost.steps, 0);
      EXPECT_EQ(cost.fast_steps, cost.steps) << "all that is timed, in every repeat";
      EXPECT_GT(cost.ops.matmul_flops, 0);
      EXPECT_GT(cost.ops.bytes, 0);
      EXPECT_LE(cost.ops.seconds, 1.05 * cost.wall_s * cost.ranks);
    }
  }
  // Both ranks' halves together are one model's work on the same requests.
  const auto flops = [&](const mesh::ParallelConfig& scheme) {
    return static_cast<double>(
        report.find(scheme)->loads.at({.concurrency = 4}).costs[0].ops.attention_flops);
  };
  EXPECT_NEAR(flops({.tp = 2}) / flops({}), 1, 0.05);
}

TEST(Protocol, CountsTheRowsOfEveryExpertAndTheStepsForOtherReplicas) {
  VerifyOptions options = tiny();
  options.cluster.model = "tiny-moe";
  options.schemes = {
      {}, {.tp = 2, .ep = 2}, {.dp = 2, .ep = 2}, {.dp = 2, .tp = 2, .ep = 2, .etp = 2}};
  options.concurrencies = {1};
  options.requests = 2;
  // A row takes two experts, and the last token of a request is sampled and not computed.
  const int64_t rows = 2LL * options.requests * (options.input_len + options.output_len - 1);
  for (const SchemeResult& r : report_of(options).schemes) {
    SCOPED_TRACE(mesh::scheme_name(r.scheme));
    for (const RunCost& cost : r.loads.at({.concurrency = 1}).costs) {
      ASSERT_EQ(cost.experts.size(), 3U) << "the first of four layers is dense";
      for (const auto& [layer, work] : cost.experts) {
        EXPECT_EQ(std::accumulate(work.rows.begin(), work.rows.end(), int64_t{0}), rows);
        EXPECT_EQ(work.rank_rows.size(), static_cast<size_t>(r.scheme.devices()));
        EXPECT_GE(work.distinct, work.steps);
      }
      if (r.scheme.dp > 1) {
        // One request at a time: the replica that does not have it steps for the other's rows.
        EXPECT_EQ(2 * cost.zero_row_steps, cost.steps);
        EXPECT_GT(cost.comm.at(mesh::Axis::kExpert).bytes, 0);
      } else {
        EXPECT_EQ(cost.zero_row_steps, 0);
      }
    }
  }
}

TEST(Protocol, ASweepDoublesUntilNothingIsGainedAndRepeatsTheSamePoints) {
  VerifyOptions options = tiny();
  options.schemes = {{}};
  options.sweep = true;
  options.input_len = 4;
  const VerifyReport report = report_of(options);
  const std::map<LoadPoint, LoadResult>& loads = report.schemes[0].loads;
  ASSERT_GE(loads.size(), 2U);
  EXPECT_EQ(report.points.size(), loads.size());
  int expected = 1;
  for (const auto& [point, load] : loads) {
    EXPECT_EQ(point.concurrency, expected);
    EXPECT_EQ(load.repeats.size(), 2U) << point.name();
    expected *= 2;
  }
}

TEST(Protocol, CountsTheRequestsOfATraceThatDoNotFit) {
  VerifyOptions options = tiny();
  options.schemes = {{}};
  options.concurrencies.clear();
  options.repeats = 1;
  const std::string line = R"(, "input_length": 30, "output_length": 3})";
  std::string text = R"({"timestamp": 0, "input_length": 900000, "output_length": 3})";
  for (int i = 1; i < 6; ++i) text += "\n{\"timestamp\": " + std::to_string(10 * i) + line;
  options.trace =
      TraceOptions{.path = "made.jsonl", .trace = load::parse_trace(text, "made.jsonl").value()};
  const auto refused = run(options, [](const std::string&) {});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, testing::HasSubstr("900000 prompt and 3 output tokens"));
  options.trace->skip_too_long = true;
  const VerifyReport report = report_of(options);
  const LoadResult& load = report.schemes[0].loads.begin()->second;
  EXPECT_EQ(load.skipped_requests, 1);
  EXPECT_EQ(load.summary.requests, 5);
}

}  // namespace
}  // namespace fourfold::verify
