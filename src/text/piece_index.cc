#include "text/piece_index.h"

#include <bit>
#include <functional>
#include <limits>

#include "base/check.h"

namespace fourfold::text {
namespace {

uint32_t hash_of(std::string_view piece) {
  return static_cast<uint32_t>(std::hash<std::string_view>{}(piece));
}

}  // namespace

size_t PieceIndex::locate(std::string_view piece, uint32_t hash) const {
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    const Slot& slot = slots_[at];
    if (slot.id < 0 || (slot.hash == hash && this->at(slot) == piece)) return at;
  }
}

void PieceIndex::resize(size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.id >= 0) slots_[locate(at(slot), slot.hash)] = slot;
  }
}

void PieceIndex::reserve(int64_t count) {
  const size_t slots = std::bit_ceil(static_cast<size_t>(count) * 2);
  if (slots > slots_.size()) resize(slots);
}

void PieceIndex::add(std::string_view piece, int32_t id) {
  CHECK(id >= 0, "piece '{}' has the id {}", piece, id);
  CHECK(bytes_.size() + piece.size() <= std::numeric_limits<uint32_t>::max(),
        "the pieces of a vocabulary take more than 4 GiB");
  if ((taken_ + 1) * 2 > slots_.size()) resize(slots_.size() * 2);
  const uint32_t hash = hash_of(piece);
  Slot& slot = slots_[locate(piece, hash)];
  if (slot.id >= 0) return;
  slot = {hash, id, static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(piece.size())};
  bytes_ += piece;
  ++taken_;
}

std::optional<int32_t> PieceIndex::find(std::string_view piece) const {
  const Slot& slot = slots_[locate(piece, hash_of(piece))];
  if (slot.id < 0) return std::nullopt;
  return slot.id;
}

}  // namespace fourfold::text
