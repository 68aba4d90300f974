#pragma once

#include <string>

namespace fourfold::measure {

/// One look at a server's /metrics.
struct ServerLook {
  std::string page;
  double at_s = 0;  ///< on any clock
};

/// What two looks at a server say, for a terminal: rates are those between the looks; medians too,
/// where something was counted between them, else since the server's start. For servers with
/// vLLM's names (fourfold and vLLM: a line for each engine) and for `fourfold route` (a line for
/// each replica).
std::string top_view(const ServerLook& before, const ServerLook& now);

}  // namespace fourfold::measure
