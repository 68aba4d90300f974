#pragma once

#include <functional>
#include <string>

namespace fourfold::measure {

/// A line of progress: what is running and how far it is.
using Progress = std::function<void(const std::string&)>;

}  // namespace fourfold::measure
