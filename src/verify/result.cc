#include "verify/result.h"

#include <algorithm>

namespace fourfold::verify {

LayerExperts& LayerExperts::operator+=(const LayerExperts& other) {
  rows.resize(std::max(rows.size(), other.rows.size()));
  for (size_t e = 0; e < other.rows.size(); ++e) rows[e] += other.rows[e];
  rank_rows.insert(rank_rows.end(), other.rank_rows.begin(), other.rank_rows.end());
  steps += other.steps;
  distinct += other.distinct;
  return *this;
}

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
