#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "jinja/value.h"

namespace fourfold::jinja {
namespace {

const utf8proc_uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

/// The first code point and its bytes; a byte that begins none stands for itself, negative.
std::pair<utf8proc_int32_t, size_t> first_of(std::string_view text) {
  utf8proc_int32_t point = -1;
  const utf8proc_ssize_t size =
      utf8proc_iterate(bytes_of(text), static_cast<utf8proc_ssize_t>(text.size()), &point);
  if (size <= 0) return {-1, 1};
  return {point, static_cast<size_t>(size)};
}

}  // namespace

void append_character(uint32_t point, std::string& out) {
  std::array<utf8proc_uint8_t, 4> encoded{};
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(point), encoded.data());
  out.append(reinterpret_cast<const char*>(encoded.data()), static_cast<size_t>(count));
}

namespace {

template <typename Map>
std::string map_points(std::string_view text, const Map& map) {
  std::string out;
  while (!text.empty()) {
    const auto [point, size] = first_of(text);
    if (point < 0) {
      out += text[0];
    } else {
      append_character(static_cast<uint32_t>(map(point)), out);
    }
    text.remove_prefix(size);
  }
  return out;
}

}  // namespace

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const size_t size = first_of(text).second;
    out.push_back(text.substr(0, size));
    text.remove_prefix(size);
  }
  return out;
}

std::string upper(std::string_view text) {
  // Those letters in use that become two or three (Unicode, SpecialCasing.txt).
  constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kSpecial = {
      {{"\u00df", "SS"},
       {"\ufb00", "FF"},
       {"\ufb01", "FI"},
       {"\ufb02", "FL"},
       {"\ufb03", "FFI"},
       {"\ufb04", "FFL"},
       {"\ufb05", "ST"},
       {"\ufb06", "ST"},
       {"\u0149", "\u02bcN"}}};
  std::string out;
  for (const std::string_view c : characters(text)) {
    const auto found = std::find_if(kSpecial.begin(), kSpecial.end(),
                                    [c](const auto& special) { return special.first == c; });
    out += found != kSpecial.end()
               ? std::string(found->second)
               : map_points(c, [](utf8proc_int32_t point) { return utf8proc_toupper(point); });
  }
  return out;
}

std::string lower(std::string_view text) {
  return map_points(text, [](utf8proc_int32_t point) { return utf8proc_tolower(point); });
}

bool is_space(std::string_view character) {
  const utf8proc_int32_t point = first_of(character).first;
  return (9 <= point && point <= 13) || (28 <= point && point <= 32) || point == 0x85 ||
         point == 0xa0 || point == 0x1680 || (0x2000 <= point && point <= 0x200a) ||
         point == 0x2028 || point == 0x2029 || point == 0x202f || point == 0x205f ||
         point == 0x3000;
}

std::string_view strip(std::string_view text, std::string_view what, bool left, bool right) {
  const std::vector<std::string_view> set = characters(what);
  const auto goes = [&](std::string_view character) {
    return what.empty() ? is_space(character)
                        : std::find(set.begin(), set.end(), character) != set.end();
  };
  const std::vector<std::string_view> all = characters(text);
  size_t begin = 0;
  size_t end = all.size();
  while (left && begin < end && goes(all[begin])) text.remove_prefix(all[begin++].size());
  while (right && begin < end && goes(all[end - 1])) text.remove_suffix(all[--end].size());
  return text;
}

}  // namespace fourfold::jinja
