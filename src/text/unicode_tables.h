#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace fourfold::text {

/// Code points that belong to a general category ("Lu") or a script ("Han").
struct UnicodeRange {
  std::string_view property;
  uint32_t first;
  uint32_t last;
};

/// What Unicode 15.0, 15.1 and 16.0 added to the general categories and to the scripts that
/// `translate_regex` accepts. PCRE2 10.42 knows Unicode 14, the Hugging Face tokenizers know 16.
/// Made by comparing the two over all code points. (U+1171E, which moved from Mn to Mc, stays in
/// both.)
std::span<const UnicodeRange> unicode_additions();

/// Whether the normal forms of the Hugging Face tokenizers, whose tables are those of Unicode 9, do
/// not know a code point that decomposes or combines in newer versions: it stays as it is and marks
/// are not moved across it. Made by comparing with utf8proc over all code points.
bool unknown_to_normal_forms(char32_t code_point);

}  // namespace fourfold::text
