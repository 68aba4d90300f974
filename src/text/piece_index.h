#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fourfold::text {

/// A map from strings to ids, built once and searched often: open addressing with the hash beside
/// the id, so that a string that is not there costs about one cache line. Encoding asks mostly for
/// such strings.
class PieceIndex {
 public:
  void reserve(int64_t count);
  /// A string that is already there keeps its id.
  void add(std::string_view piece, int32_t id);
  std::optional<int32_t> find(std::string_view piece) const;

 private:
  struct Slot {
    uint32_t hash;
    int32_t id = -1;  ///< -1: the slot is free.
    uint32_t begin;   ///< In `bytes_`.
    uint32_t length;
  };
  std::string_view at(const Slot& slot) const {
    return std::string_view(bytes_).substr(slot.begin, slot.length);
  }
  /// The slot of `piece`, or the free one where it belongs.
  size_t locate(std::string_view piece, uint32_t hash) const;
  void resize(size_t slots);

  std::vector<Slot> slots_ = std::vector<Slot>(16);  // A power of two, at most half of it taken.
  size_t taken_ = 0;
  std::string bytes_;
};

}  // namespace fourfold::text
