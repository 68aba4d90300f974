#pragma once

#include <string_view>

namespace fourfold::base {

/// The release, for example "0.1.0", and the commit the program was built from ("-dirty" if
/// changed).
std::string_view version();
std::string_view commit();

}  // namespace fourfold::base
