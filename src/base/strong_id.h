#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace fourfold::base {

/// An integer that cannot be mistaken for another kind of integer. Invalid (-1) unless given.
template <typename Tag, typename Int = int64_t>
struct StrongId {
  Int value = -1;

  constexpr StrongId() = default;
  constexpr explicit StrongId(Int v) : value(v) {}
  constexpr bool valid() const { return value >= 0; }
  constexpr auto operator<=>(const StrongId&) const = default;
};

}  // namespace fourfold::base

template <typename Tag, typename Int>
struct std::hash<fourfold::base::StrongId<Tag, Int>> {
  size_t operator()(fourfold::base::StrongId<Tag, Int> id) const noexcept {
    return std::hash<Int>{}(id.value);
  }
};
