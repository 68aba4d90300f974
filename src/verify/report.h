#pragma once

#include <string>

#include "verify/result.h"

namespace fourfold::verify {

/// A line that says so where `devices` outnumber this machine's cores or share its GPU; empty
/// otherwise.
std::string devices_note(const VerifyReport& report, int devices);

/// The terminal report: answers, one table for each load point with its winners, where the time
/// went, the laws, the definitions, how to start the winners.
std::string to_text(const VerifyReport& report);

}  // namespace fourfold::verify
