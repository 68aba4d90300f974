#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace fourfold::load {

double mean(std::span<const double> values);

/// Percentile `p` in [0, 100] with linear interpolation between the closest ranks (numpy's default,
/// so also vLLM's). `values` must not be empty.
double percentile(std::vector<double> values, double p);

/// The same, or nothing where fewer than 100 / (100 - p) values stand behind it: the p99 of 20
/// requests would be an interpolation between its two largest values.
std::optional<double> supported_percentile(const std::vector<double>& values, double p);

/// The 101 percentiles 0, 1, … 100 of a distribution, for plots; empty where there are no values.
/// Unlike a printed percentile they need no support: the curve through few values shows few values.
std::vector<double> quantiles_101(std::vector<double> values);

/// Of the mean of two values and more: their standard deviation over the root of their number.
double standard_error(std::span<const double> values);

/// Half the width of the 95 % confidence interval of the mean (Student's t); nothing for fewer than
/// two values.
std::optional<double> confidence_95(std::span<const double> values);

/// One metric of one scheme: over all requests of all repeats, and the interval of the mean over
/// the repeats' means.
struct Summary {
  std::optional<double> mean;
  std::optional<double> p50;
  std::optional<double> p90;
  std::optional<double> p99;
  std::optional<double> ci95;
};

/// `repeats[r]` holds the values of repeat r.
Summary summarize(const std::vector<std::vector<double>>& repeats);

/// How much `a` is above `b` where a[r] and b[r] met the same circumstances: both in repeat r.
/// Whatever made a repeat slow for both cancels.
struct PairedDifference {
  double mean = 0;
  std::optional<double> ci95;  ///< half the width; nothing for fewer than two pairs
  double p = 1;                ///< of the two-sided t test of no difference; 1 for fewer than two
};
PairedDifference paired_difference(std::span<const double> a, std::span<const double> b);

/// Which of several candidates is best by `values[candidate][repeat]`, paired by repeat: `best` has
/// the best mean, `ties` are those that the repeats cannot tell from it (all, where there are fewer
/// than two repeats). The others are told apart with a family-wise error of 4 %: all pairs of
/// candidates are tested (paired t) and Holm's step-down decides, because which pairs have the best
/// in them is known only from the same data. So identical candidates, however many, are declared
/// different in at most 5 % of all rankings, also where 2,000 of them are counted. S. Holm, "A
/// simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
struct Ranking {
  size_t best = 0;
  std::vector<size_t> ties;
};
Ranking rank(const std::vector<std::vector<double>>& values, bool lower_is_better);

}  // namespace fourfold::load
