#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/request.h"
#include "load/metrics.h"

namespace fourfold::load {

/// Requests of one length: prompts of `input_len` tokens drawn uniformly from the vocabulary by
/// `seed`, the same for every scheme, each of which runs for exactly `output_len` tokens.
struct FixedLoad {
  int32_t input_len = 0;
  int32_t output_len = 0;
  int32_t requests = 0;
  int64_t vocab = 0;
  uint64_t seed = 0;
};
std::vector<engine::Request> make_requests(const FixedLoad& load);

/// Tokens of one request that arrived together.
struct Arrival {
  int32_t tokens = 0;
  bool finished = false;
  std::string failure;  ///< not empty: the request ended without its tokens
  int64_t now_ns = 0;
};
/// Sends a request; `sink` is then called, from any thread, until an arrival is finished.
using Submit =
    std::function<base::Status(const engine::Request&, std::function<void(const Arrival&)> sink)>;

/// Keeps `concurrency` requests outstanding until all have been sent, and waits for the last.
/// `on_finished(done)` is called from the calling thread after each finished request.
base::Result<std::vector<RequestLog>> run_closed_loop(
    std::span<const engine::Request> requests, int concurrency, const base::Clock& clock,
    const Submit& submit, const std::function<void(size_t done)>& on_finished);

}  // namespace fourfold::load
