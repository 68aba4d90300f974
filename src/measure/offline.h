#pragma once

#include <cstdint>
#include <vector>

#include "base/numerics.h"
#include "base/result.h"
#include "measure/progress.h"
#include "measure/results.h"
#include "runtime/cluster.h"

namespace fourfold::measure {

struct OfflineOptions {
  runtime::ClusterConfig cluster;
  base::Numerics numerics = base::Numerics::kFast;
  int32_t input_len = 512;
  int32_t output_len = 64;
  std::vector<int> concurrencies = {1};
  int repeats = 3;
  uint64_t seed = 0;
  engine::SamplingParams sampling{.temperature = 0};  ///< seeds are made of `seed`
};

/// Runs one scheme as `verify` does: requests through the router, the engines and the paged cache.
/// At each concurrency c it sends c requests at once, twice over the same prompts: for one token
/// each (prefill), then for `output_len` (prefill and decode). The prefix cache is empty before
/// both. The peaks of all ranks are measured before and after, and a sample's ceiling is made of
/// their mean: what the operators' FLOPs and bytes, as the ranks counted them, would take there.
///
/// Figures of each c: prefill_tok_s, ttft_ms (of the first pass), decode_tok_s (from the moment
/// when all requests have a token), tpot_ms, itl_ms, output_tok_s (of the second pass); and the
/// peaks themselves.
base::Result<std::vector<Figure>> measure_offline(const OfflineOptions& options,
                                                  const Progress& progress);

}  // namespace fourfold::measure
