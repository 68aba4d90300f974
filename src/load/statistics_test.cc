#include "load/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::load {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::Optional;

// numpy.percentile([15, 20, 35, 40, 50], [0, 40, 90, 100]) = [15, 29, 46, 50].
TEST(Percentile, InterpolatesLinearlyAsNumpyDoes) {
  const std::vector<double> values = {50, 15, 35, 20, 40};
  EXPECT_DOUBLE_EQ(percentile(values, 0), 15);
  EXPECT_DOUBLE_EQ(percentile(values, 40), 29);
  EXPECT_DOUBLE_EQ(percentile(values, 90), 46);
  EXPECT_DOUBLE_EQ(percentile(values, 100), 50);
}

TEST(Percentile, IsWithheldWhereTooFewValuesStandBehindIt) {
  EXPECT_EQ(supported_percentile(std::vector<double>(99, 1.0), 99), std::nullopt);
  EXPECT_THAT(supported_percentile(std::vector<double>(100, 1.0), 99), Optional(1.0));
  EXPECT_EQ(supported_percentile(std::vector<double>(9, 1.0), 90), std::nullopt);
  EXPECT_EQ(supported_percentile({}, 50), std::nullopt);
}

// scipy.stats.t.interval(0.95, 4, loc=3, scale=sem([1,2,3,4,5])) = 3 +- 1.96324.
TEST(Confidence, IsStudentsInterval) {
  const std::vector<double> values = {1, 2, 3, 4, 5};
  EXPECT_THAT(confidence_95(values), Optional(DoubleNear(1.96324, 1e-4)));
  EXPECT_EQ(confidence_95(std::vector<double>{1.0}), std::nullopt);
}

TEST(Summary, SpreadsOverRequestsAndIntervalOverRepeats) {
  const Summary s = summarize({{1, 3}, {3, 5}});
  EXPECT_THAT(s.mean, Optional(3.0));
  EXPECT_EQ(summarize({{}, {}}).mean, std::nullopt);
  EXPECT_THAT(s.p50, Optional(3.0));
  EXPECT_EQ(s.p90, std::nullopt);
  // Repeat means 2 and 4: t(1) * sqrt(2) / sqrt(2).
  EXPECT_THAT(s.ci95, Optional(DoubleNear(12.7062, 1e-3)));
}

TEST(Quantiles, AreTheHundredAndOnePercentiles) {
  const std::vector<double> values = {50, 15, 35, 20, 40};
  const std::vector<double> q = quantiles_101(values);
  ASSERT_EQ(q.size(), 101U);
  for (const int p : {0, 40, 73, 100}) {
    EXPECT_DOUBLE_EQ(q[static_cast<size_t>(p)], percentile(values, p));
  }
  EXPECT_THAT(quantiles_101({}), ElementsAre());
}

// scipy.stats.ttest_rel([1, 2, 4, 4, 6], [0.5, 1.8, 3, 3.9, 5]): t = 2.9272, p = 0.04294.
TEST(PairedDifference, IsStudentsPairedTest) {
  const PairedDifference d = paired_difference(std::vector<double>{1, 2, 4, 4, 6},
                                               std::vector<double>{0.5, 1.8, 3, 3.9, 5});
  EXPECT_DOUBLE_EQ(d.mean, 0.56);
  EXPECT_NEAR(d.p, 0.0429350, 1e-6);
  EXPECT_THAT(d.ci95, Optional(DoubleNear(0.5311652, 1e-6)));
}

TEST(PairedDifference, OfAConstantIsCertainAndOfOnePairUnknown) {
  using Values = std::vector<double>;
  EXPECT_EQ(paired_difference(Values{1, 2}, Values{1, 2}).p, 1);
  EXPECT_EQ(paired_difference(Values{2, 3}, Values{1, 2}).p, 0);
  EXPECT_EQ(paired_difference(Values{2}, Values{1}).p, 1);
  EXPECT_EQ(paired_difference(Values{2}, Values{1}).ci95, std::nullopt);
}

TEST(Ranking, CorrectsForTheNumberOfCandidates) {
  // p of this pair is 0.023: different among two, not among four.
  const std::vector<double> best = {10, 20, 30, 40};
  const std::vector<double> second = {11.0, 20.6, 31.5, 40.7};
  const std::vector<double> third = {11.6, 20.3, 31.0, 40.5};
  EXPECT_NEAR(paired_difference(second, best).p, 0.0185, 0.005);
  EXPECT_THAT(rank({best, second}, true).ties, ElementsAre());
  EXPECT_THAT(rank({best, second, third, third}, true).ties, ElementsAre(1, 2, 3));
}

TEST(Ranking, NamesAWinnerOnlyWhereThePairedIntervalExcludesZero) {
  // The second is slower by about 1 in every repeat although the repeats themselves differ by 10.
  const Ranking clear = rank({{10, 20, 30}, {11, 21.1, 30.9}}, /*lower_is_better=*/true);
  EXPECT_EQ(clear.best, 0U);
  EXPECT_THAT(clear.ties, ElementsAre());
  const Ranking tie = rank({{10, 20, 30}, {11, 19, 31}}, /*lower_is_better=*/true);
  EXPECT_THAT(tie.ties, ElementsAre(1));
  const Ranking single = rank({{1}, {100}}, /*lower_is_better=*/false);
  EXPECT_EQ(single.best, 1U);
  EXPECT_THAT(single.ties, ElementsAre(0));
}

}  // namespace
}  // namespace fourfold::load
