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

std::string SchemeResult::name() const {
  if (!label.empty()) return label;
  const std::string scheme_name = mesh::scheme_name(scheme);
  return engine.empty() ? scheme_name : engine + " " + scheme_name;
}

bool VerifyReport::ok() const {
  return std::all_of(schemes.begin(), schemes.end(),
                     [](const SchemeResult& r) { return !r.legal || r.ok(); });
}

const SchemeResult* VerifyReport::find(const mesh::ParallelConfig& scheme,
                                       const std::string& engine) const {
  const auto it = std::find_if(schemes.begin(), schemes.end(), [&](const SchemeResult& r) {
    return r.scheme == scheme && r.engine == engine;
  });
  return it == schemes.end() ? nullptr : &*it;
}

}  // namespace fourfold::verify
