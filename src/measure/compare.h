#pragma once

#include <optional>
#include <string>
#include <vector>

#include "measure/results.h"

namespace fourfold::measure {

/// One figure that both files have.
struct Comparison {
  std::string name;
  std::string unit;
  double before = 0;
  double after = 0;
  /// How much better the second file is: 1.1 is ten per cent better, whether higher or lower is.
  double gain = 1;
  std::optional<double> before_share;  ///< of the ceiling that was measured beside it
  std::optional<double> after_share;
  /// The difference is larger than the root of the sum of the squares of both 95 % intervals. Never
  /// where one side has a single repeat.
  bool significant = false;
};

struct ComparisonTable {
  std::vector<Comparison> figures;       ///< in the order of the first file
  std::vector<std::string> only_before;  ///< names
  std::vector<std::string> only_after;
  std::vector<std::string> differences;  ///< what else is not the same: "cpu: A, B"

  /// Significantly worse by more than `percent`.
  std::vector<Comparison> worse_than(double percent) const;
};

/// Errors: results of two kinds, or none in common.
base::Result<ComparisonTable> compare(const Results& before, const Results& after);

std::string to_text(const ComparisonTable& table);

}  // namespace fourfold::measure
