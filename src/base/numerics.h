#pragma once

#include <cstdint>

namespace fourfold::base {

/// How free the order of additions is (docs/numerics.md).
enum class Numerics : uint8_t {
  kInvariant,  ///< the same bits whatever the layout, the batch and the paging
  kFast,       ///< every kernel and collective takes its quickest order
};

}  // namespace fourfold::base
