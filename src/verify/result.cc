#include "verify/result.h"

#include <algorithm>

namespace fourfold::verify {

bool VerifyReport::ok() const {
  return std::all_of(schemes.begin(), schemes.end(),
                     [](const SchemeResult& r) { return !r.legal || r.ok(); });
}

const SchemeResult* VerifyReport::find(const mesh::ParallelConfig& scheme) const {
  const auto it = std::find_if(schemes.begin(), schemes.end(),
                               [&](const SchemeResult& r) { return r.scheme == scheme; });
  return it == schemes.end() ? nullptr : &*it;
}

}  // namespace fourfold::verify
