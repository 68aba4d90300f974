#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fourfold::engine {

/// What a replica looks like to a request.
struct ReplicaLoad {
  int64_t outstanding_tokens = 0;  ///< prompt tokens to compute and tokens to sample
  int64_t free_blocks = 0;
  int64_t known_tokens = 0;  ///< of the request's prompt, in the prefix cache
};

/// The replica that would be done with the request first if all tokens took the same time: fewest
/// outstanding tokens, less those of the prompt that it need not compute. Among equals the one with
/// more free blocks, then the first. `replicas` must not be empty.
constexpr size_t choose_replica(std::span<const ReplicaLoad> replicas) {
  const auto is_better = [](const ReplicaLoad& a, const ReplicaLoad& b) {
    const int64_t work_a = a.outstanding_tokens - a.known_tokens;
    const int64_t work_b = b.outstanding_tokens - b.known_tokens;
    return work_a != work_b ? work_a < work_b : a.free_blocks > b.free_blocks;
  };
  size_t best = 0;
  for (size_t i = 1; i < replicas.size(); ++i) {
    if (is_better(replicas[i], replicas[best])) best = i;
  }
  return best;
}

}  // namespace fourfold::engine
