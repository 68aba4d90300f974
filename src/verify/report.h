#pragma once

#include <string>

#include "verify/result.h"

namespace fourfold::verify {

/// A line that says so where `devices` outnumber this machine's cores or share its GPU; empty
/// otherwise.
std::string devices_note(const VerifyReport& report, int devices);

/// "Concurrency 8: 16 requests of 64 + 32 tokens, 3 repeats, …" between line feeds.
std::string point_title(const VerifyReport& report, const LoadPoint& point);

/// A line for each objective: who is best at this point, and who cannot be told from it.
std::string ranking_section(const VerifyReport& report, const LoadPoint& point);

/// The terminal report: answers, one table for each load point with its winners, where the time
/// went, the laws, the definitions, how to start the winners.
std::string to_text(const VerifyReport& report);

}  // namespace fourfold::verify
