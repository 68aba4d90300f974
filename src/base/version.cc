#include "base/version.h"

namespace fourfold::base {

std::string_view version() { return FOURFOLD_VERSION; }
std::string_view commit() { return FOURFOLD_COMMIT; }

}  // namespace fourfold::base
