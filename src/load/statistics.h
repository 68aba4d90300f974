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

/// Which of several candidates is best by `values[candidate][repeat]`, paired by repeat: `best` has
/// the best mean; `ties` are those whose paired 95 % interval of the difference to it contains zero
/// (all of them where there are fewer than two repeats).
struct Ranking {
  size_t best = 0;
  std::vector<size_t> ties;
};
Ranking rank(const std::vector<std::vector<double>>& values, bool lower_is_better);

}  // namespace fourfold::load
