#pragma once

#include <string>
#include <string_view>

#include "backend/ops.h"
#include "base/result.h"

namespace fourfold::model {

/// How the rows of a model with made-up weights choose their experts. Random routers favour a few
/// experts in a way of their own; a figure that is to tell of a real model's exchange needs a known
/// spread.
struct DummyRouting {
  bool natural = true;  ///< by the random router's own logits
  /// Else expert i is drawn with a probability in proportion to 1 / (i + 1)^exponent, a row's
  /// further experts likewise from those left. 0: all alike.
  double exponent = 0;

  bool operator==(const DummyRouting&) const = default;
};

/// "natural", "uniform" or "zipf:S" with S above 0.
base::Result<DummyRouting> parse_dummy_routing(std::string_view text);
std::string to_string(const DummyRouting& routing);

/// Unless natural, replaces the router's logits, f32 [M, E], so that Ops::route draws from the
/// distribution: each becomes the logarithm of its expert's probability plus Gumbel noise,
/// whose order is such a draw without replacement. The noise is Philox keyed by a hash of the row's
/// own logits: a function of the row alone, the same in every layout and batch in which the logits
/// have the same bits (always in invariant numerics). They are drawn in `host` where the backend's
/// memory is another.
void replace_router_logits(const DummyRouting& routing, const backend::Ops& ops,
                           backend::Stream& stream, tensor::Arena& host, tensor::View logits);

}  // namespace fourfold::model
