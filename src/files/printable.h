#pragma once

#include <string>
#include <string_view>

namespace fourfold::files {

/// Text from a file as it may stand in a message: every byte that is not printable ASCII becomes
/// \xNN, so that a hostile name cannot drive a terminal; longer than `max_bytes` ends in "...".
std::string printable(std::string_view text, size_t max_bytes = 100);

}  // namespace fourfold::files
