#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "measure/endpoint.h"

namespace fourfold::measure {

/// The first place where an answer differs from the baseline's.
struct ServedDifference {
  size_t request = 0;
  int64_t position = 0;  ///< in ServedComparison::unit
  std::string baseline;  ///< the token there, or what follows of the text; "": it has ended
  std::string other;
  /// By how much the baseline preferred its own token, in nats; none where it does not list the
  /// other among the most likely, or there are no logprobs.
  std::optional<double> margin;
  /// The margin is within the measured noise, twice max_logprob_diff (verify::Deviation's rule).
  bool near_tie = false;
};

/// How a scheme's greedy answers compare to the baseline's. What follows a first difference has
/// another prefix and is not compared.
struct ServedComparison {
  enum class Unit : uint8_t { kTokens, kBytes };

  Unit unit = Unit::kTokens;  ///< bytes of text where one side has no tokens
  int64_t answers = 0;
  int64_t equal_answers = 0;
  int64_t length = 0;        ///< of the baseline's answers, in units
  int64_t equal_length = 0;  ///< before the first differences
  /// Of a token that both list at a position up to and including the first difference; none where
  /// there are no logprobs.
  std::optional<double> max_logprob_diff;
  std::vector<ServedDifference> differences;  ///< one at most for each answer, in their order

  double equal_share() const {
    return answers == 0 ? 1.0 : static_cast<double>(equal_answers) / static_cast<double>(answers);
  }
  double equal_length_share() const {
    return length == 0 ? 1.0 : static_cast<double>(equal_length) / static_cast<double>(length);
  }
  int64_t near_ties() const;
};

/// Both to the same questions, in the same order.
ServedComparison compare_answers(const std::vector<ServedAnswer>& baseline,
                                 const std::vector<ServedAnswer>& answers);

/// "5 of 6 answers equal (93.0 % of the tokens before a first difference); request 2 differs at
/// token 17: …".
std::string to_text(const ServedComparison& comparison);

}  // namespace fourfold::measure
