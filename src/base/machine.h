#pragma once

#include <string>
#include <vector>

namespace fourfold::base {

/// The processor's name as the system gives it, or "unknown".
std::string cpu_name();

/// The cores that this process may run on, by number; empty where the system does not say.
std::vector<int> usable_cpus();

/// Now in UTC, as ISO 8601 to the second.
std::string utc_date();

}  // namespace fourfold::base
