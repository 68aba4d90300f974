#pragma once

#include <bitset>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"

namespace fourfold::text {

/// A set of strings with ids, in a trie of bytes, that finds the longest one at a position.
class PrefixMatcher {
 public:
  struct Match {
    int64_t length = 0;  ///< 0: no string of the set starts here.
    int32_t id = -1;
  };

  /// Adds a non-empty string; one that is already there keeps its id. An error if it or all
  /// together are too long: a search may follow it at each position, and each byte takes some 50 of
  /// memory.
  base::Status add(std::string_view string, int32_t id);

  /// The longest string of the set with which `text` starts.
  Match longest(std::string_view text) const;

  bool empty() const { return ids_.size() == 1; }

 private:
  static uint64_t edge(int32_t node, char byte) {
    return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
  }

  std::unordered_map<uint64_t, int32_t> children_;  // (node, byte) to node.
  std::vector<int32_t> ids_ = {-1};                 // By node: the id of the string ending there.
  std::bitset<256> first_bytes_;                    // Most positions start no string at all.
};

}  // namespace fourfold::text
