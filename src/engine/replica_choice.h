#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/ids.h"
#include "engine/prefix_index.h"

namespace fourfold::engine {

/// What a replica looks like to a request.
struct ReplicaLoad {
  int64_t outstanding_tokens = 0;  ///< prompt tokens to compute and tokens to sample
  int64_t free_blocks = 0;
  int64_t known_tokens = 0;  ///< of the request's prompt, in the prefix cache
};

/// Outstanding tokens above those of the least loaded replica up to which a replica may still be
/// chosen for a prefix it knows; above that, an eighth of the least loaded one's. A prefix saves
/// work, but a replica that runs late holds up everyone on it.
inline constexpr int64_t kAffinitySlackTokens = 2048;

/// The replica that would be done with the request first if all tokens took the same time: fewest
/// outstanding tokens, less those of the prompt that it need not compute, among those within the
/// slack above. Among equals the one with more free blocks, then the first. `replicas` must not be
/// empty.
constexpr size_t choose_replica(std::span<const ReplicaLoad> replicas) {
  int64_t least = replicas[0].outstanding_tokens;
  for (const ReplicaLoad& load : replicas) least = std::min(least, load.outstanding_tokens);
  const int64_t most = least + std::max(kAffinitySlackTokens, least / 8);

  const auto is_better = [&](const ReplicaLoad& a, const ReplicaLoad& b) {
    const bool fits_a = a.outstanding_tokens <= most;
    const bool fits_b = b.outstanding_tokens <= most;
    if (fits_a != fits_b) return fits_a;
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

/// What the prefix caches of replicas probably hold, judged by the prompts that were sent to them:
/// the router's view, which asks no engine. Per replica the hashes of the prefixes that end with
/// each full block, as many as it has KV blocks; the least recently sent ones are forgotten. A
/// wrong guess costs work, never an answer.
class PrefixAffinity {
 public:
  PrefixAffinity(size_t replicas, int64_t blocks, int32_t block_size);

  /// Leading prompt tokens that each replica knows.
  std::vector<int64_t> known_tokens(std::span<const TokenId> prompt) const;
  /// The prompt was sent to `replica`.
  void record(size_t replica, std::span<const TokenId> prompt);
  void clear();
  /// The replica has lost its cache.
  void clear(size_t replica) { replicas_.at(replica) = {}; }
  /// One more, the last one, which knows nothing yet.
  void add_replica() { replicas_.emplace_back(); }
  /// Those behind it move up by one.
  void remove_replica(size_t replica) {
    replicas_.erase(replicas_.begin() + static_cast<std::ptrdiff_t>(replica));
  }

 private:
  struct Replica {
    std::list<uint64_t> order;  ///< the most recently sent first
    std::unordered_map<uint64_t, std::list<uint64_t>::iterator> entries;
  };

  std::vector<uint64_t> prefix_hashes(std::span<const TokenId> prompt) const;

  size_t blocks_;
  size_t block_size_;
  std::vector<Replica> replicas_;
};

}  // namespace fourfold::engine
