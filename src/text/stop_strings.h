#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fourfold::text {

/// Finds stop strings in text that arrives piece by piece, wherever the pieces are cut. The match
/// that counts is the one that ends first; among those that end together, the one that begins
/// first.
class StopChecker {
 public:
  /// What `push` lets out.
  struct Output {
    std::string text;            ///< Safe to send: it can no longer become part of a stop string.
    std::optional<size_t> stop;  ///< Index of the stop string that was found: the text ends here.
  };

  /// An error if a stop string is empty. With `include_stop` the stop string is part of the text.
  static base::Result<StopChecker> create(std::vector<std::string> stops, bool include_stop);

  /// Takes more text. After a stop was found everything is ignored.
  Output push(std::string_view text);

  /// Ends the text: what is held back because it might have begun a stop string.
  std::string flush();

 private:
  struct Stop {
    std::string text;
    std::vector<size_t> fallback;  ///< Knuth, Morris, Pratt: longest border of each prefix.
    size_t matched = 0;            ///< Length of its longest prefix that ends the text so far.
  };

  static void advance(Stop* stop, char byte);

  std::vector<Stop> stops_;
  bool include_stop_ = false;
  bool stopped_ = false;
  std::string held_;
};

}  // namespace fourfold::text
