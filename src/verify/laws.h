#pragma once

#include <string>
#include <vector>

#include "verify/result.h"

namespace fourfold::verify {

enum class Verdict { kHolds, kFails, kUndecided };
std::string name_of(Verdict verdict);

/// A common law of parallelism and what this run says about it.
struct Law {
  std::string name;  ///< "tp", "pp", "dp", "ep"
  std::string statement;
  Verdict verdict = Verdict::kUndecided;
  std::string evidence;  ///< numbers, or what would decide it
};

/// The four laws. Schemes whose devices share cores say nothing; differences count where the
/// paired 95 % interval excludes zero.
std::vector<Law> laws(const VerifyReport& report);

}  // namespace fourfold::verify
