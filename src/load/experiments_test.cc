// What the statistics promise, on a simulated engine whose truth is known: a repeat makes all
// schemes slower or faster together (the machine's drift), a scheme has noise of its own, and a
// repeat's figure is the mean over requests with random service times.

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "load/simulated_time_test.h"
#include "load/statistics.h"

namespace fourfold::load {
namespace {

constexpr int kExperiments = 2000;
constexpr int kRequests = 12;
constexpr double kDrift = 0.10;     // standard deviation of the logarithm, common to a repeat
constexpr double kOwnNoise = 0.01;  // the same, of one scheme in one repeat
constexpr double kServiceMs = 10;   // mean, exponential above 8 ms
constexpr double kFixedMs = 8;

double normal(uint64_t seed, uint64_t index) {
  return std::sqrt(-2 * std::log(uniform(seed, index, 1))) *
         std::cos(2 * std::numbers::pi * uniform(seed, index, 2));
}

/// exp of a normal variable with mean 1.
double lognormal(double deviation, uint64_t seed, uint64_t index) {
  return std::exp(deviation * normal(seed, index) - deviation * deviation / 2);
}

/// values[scheme][repeat]: what was measured of schemes whose true means are kServiceMs * speed.
/// Common random numbers: request i of a repeat has the same service time for all schemes.
std::vector<std::vector<double>> experiment(const std::vector<double>& slowness, int repeats,
                                            uint64_t seed) {
  std::vector<std::vector<double>> values(slowness.size());
  for (int r = 0; r < repeats; ++r) {
    const auto repeat = static_cast<uint64_t>(r);
    const double drift = lognormal(kDrift, seed, 1000 + repeat);
    double service = 0;
    for (uint64_t i = 0; i < kRequests; ++i) {
      const double draw = -std::log(uniform(seed, repeat * 100 + i, 3));
      service += (kFixedMs + (kServiceMs - kFixedMs) * draw) / kRequests;
    }
    for (size_t s = 0; s < slowness.size(); ++s) {
      const double own = lognormal(kOwnNoise, seed, 2000 + repeat * 64 + s);
      values[s].push_back(service * slowness[s] * drift * own);
    }
  }
  return values;
}

/// Of intervals around means and around paired differences.
struct Coverage {
  double mean = 0;
  double difference = 0;
};

Coverage coverage(int repeats, int experiments) {
  Coverage out;
  for (int e = 0; e < experiments; ++e) {
    const auto values = experiment({1, 1.05}, repeats, static_cast<uint64_t>(e));
    const auto covers = [&](double center, double half, double truth) {
      return std::abs(center - truth) <= half ? 1.0 / experiments : 0.0;
    };
    out.mean += covers(mean(values[0]), *confidence_95(values[0]), kServiceMs);
    const PairedDifference d = paired_difference(values[1], values[0]);
    out.difference += covers(d.mean, *d.ci95, 0.05 * kServiceMs);
  }
  return out;
}

/// Share of rankings of `schemes` equal schemes that declare any of them different.
double false_rankings(size_t schemes, int repeats, int experiments) {
  int wrong = 0;
  for (int e = 0; e < experiments; ++e) {
    const auto values =
        experiment(std::vector<double>(schemes, 1.0), repeats, static_cast<uint64_t>(e));
    wrong += rank(values, /*lower_is_better=*/true).ties.size() + 1 < schemes ? 1 : 0;
  }
  return static_cast<double>(wrong) / experiments;
}

TEST(Experiments, IntervalsCoverTheTruthIn93To97Percent) {
  for (const int repeats : {3, 5, 10}) {
    const Coverage c = coverage(repeats, kExperiments);
    EXPECT_GE(c.mean, 0.93) << repeats;
    EXPECT_LE(c.mean, 0.97) << repeats;
    EXPECT_GE(c.difference, 0.93) << repeats;
    EXPECT_LE(c.difference, 0.97) << repeats;
    RecordProperty("mean_" + std::to_string(repeats), std::to_string(c.mean));
    RecordProperty("difference_" + std::to_string(repeats), std::to_string(c.difference));
  }
}

TEST(Experiments, EqualSchemesAreDeclaredDifferentInAtMostFivePercent) {
  for (const size_t schemes : {2U, 5U, 8U}) {
    const double share = false_rankings(schemes, 5, kExperiments);
    EXPECT_LE(share, 0.05) << schemes;
    EXPECT_GT(share, 0.005) << "the correction leaves no power";
    RecordProperty("k_" + std::to_string(schemes), std::to_string(share));
  }
}

TEST(Experiments, WithoutCorrectionEightEqualSchemesWouldOftenDiffer) {
  int wrong = 0;
  for (int e = 0; e < 500; ++e) {
    const auto values = experiment(std::vector<double>(8, 1.0), 5, static_cast<uint64_t>(e));
    const size_t best = rank(values, true).best;
    bool any = false;
    for (size_t s = 0; s < 8; ++s) {
      any = any || (s != best && paired_difference(values[s], values[best]).p < 0.05);
    }
    wrong += any ? 1 : 0;
  }
  EXPECT_GT(wrong, 500 * 0.15);
}

TEST(Experiments, PairingFindsWhatDriftHides) {
  int paired = 0;
  int unpaired = 0;
  for (int e = 0; e < 200; ++e) {
    const auto values = experiment({1, 1.05}, 5, static_cast<uint64_t>(e));
    const Ranking ranking = rank(values, /*lower_is_better=*/true);
    paired += ranking.best == 0 && ranking.ties.empty() ? 1 : 0;
    const double half = *confidence_95(values[0]) + *confidence_95(values[1]);
    unpaired += std::abs(mean(values[1]) - mean(values[0])) > half ? 1 : 0;
  }
  EXPECT_GE(paired, 190);
  EXPECT_LE(unpaired, 10);
}

TEST(Experiments, ABestSchemeTenPercentAheadOfSevenIsTold) {
  int told = 0;
  for (int e = 0; e < 200; ++e) {
    std::vector<double> slowness(8, 1.10);
    slowness[3] = 1;
    const Ranking ranking = rank(experiment(slowness, 5, static_cast<uint64_t>(e)), true);
    told += ranking.best == 3 && ranking.ties.empty() ? 1 : 0;
  }
  EXPECT_GE(told, 160);
}

}  // namespace
}  // namespace fourfold::load
