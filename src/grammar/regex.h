#pragma once

#include <string_view>

#include "base/result.h"
#include "grammar/characters.h"
#include "grammar/graph.h"

namespace fourfold::grammar {

/// Which texts a regular expression stands for.
enum class Match {
  kWhole,   ///< those that it matches from end to end, as Python's re.fullmatch
  kInside,  ///< those that have a match in them, as JSON Schema's pattern
};

/// Adds edges that spell what a regular expression matches.
///
/// The dialect is what Python's re and ECMAScript have in common: characters, `.` (no line ends),
/// classes, \d \D \w \W (of ASCII) \s \S, \n \r \t \f \v \xHH \uHHHH, groups, |, and the
/// quantifiers
/// * + ? {m} {m,} {m,n}, lazy ones too, which match the same texts. ^ and $ stand at the ends of
/// the expression or of its outermost alternatives only. Errors name what else there is, and where:
/// look-around, references, \b, \p, flags, possessive quantifiers; or a limit exceeded.
base::Status add_regex(GraphBuilder& builder, Node from, std::string_view pattern, Match match,
                       Spelling spelling, Node to);

}  // namespace fourfold::grammar
