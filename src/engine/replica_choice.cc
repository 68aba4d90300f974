#include "engine/replica_choice.h"

#include "base/check.h"

namespace fourfold::engine {

PrefixAffinity::PrefixAffinity(size_t replicas, int64_t blocks, int32_t block_size)
    : blocks_(static_cast<size_t>(blocks)),
      block_size_(static_cast<size_t>(block_size)),
      replicas_(replicas) {
  CHECK(blocks > 0 && block_size > 0, "{} blocks of {}", blocks, block_size);
}

/// Of the blocks that the prefix index would look up: all full ones before the last token's. Each
/// hash is seeded with the one before it, so it stands for the whole prefix.
std::vector<uint64_t> PrefixAffinity::prefix_hashes(std::span<const TokenId> prompt) const {
  std::vector<uint64_t> hashes;
  PrefixId parent = kEmptyPrefix;
  for (size_t end = block_size_; end < prompt.size(); end += block_size_) {
    hashes.push_back(hash_block(parent, prompt.subspan(end - block_size_, block_size_)));
    parent = PrefixId(static_cast<int64_t>(hashes.back()));
  }
  return hashes;
}

std::vector<int64_t> PrefixAffinity::known_tokens(std::span<const TokenId> prompt) const {
  const std::vector<uint64_t> hashes = prefix_hashes(prompt);
  std::vector<int64_t> known;
  for (const Replica& replica : replicas_) {
    const auto unknown = std::find_if(hashes.begin(), hashes.end(), [&](uint64_t hash) {
      return !replica.entries.contains(hash);
    });
    known.push_back((unknown - hashes.begin()) * static_cast<int64_t>(block_size_));
  }
  return known;
}

void PrefixAffinity::record(size_t replica, std::span<const TokenId> prompt) {
  auto& [order, entries] = replicas_.at(replica);
  std::vector<uint64_t> hashes = prefix_hashes(prompt);
  // The tail first, so that it is forgotten first: a prefix without it is still worth keeping.
  std::reverse(hashes.begin(), hashes.end());
  for (const uint64_t hash : hashes) {
    const auto it = entries.find(hash);
    if (it != entries.end()) {
      order.splice(order.begin(), order, it->second);
      continue;
    }
    order.push_front(hash);
    entries.emplace(hash, order.begin());
  }
  while (entries.size() > blocks_) {
    entries.erase(order.back());
    order.pop_back();
  }
}

void PrefixAffinity::clear() {
  for (Replica& replica : replicas_) replica = {};
}

}  // namespace fourfold::engine
