#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fourfold::text {

/// The alphabet of byte-level BPE (GPT-2): each byte is written as one printable character, itself
/// where it is printable in Latin-1, else one from U+0100 on.
void append_byte_letters(std::string_view bytes, std::string* out);

/// The bytes that `letters` stands for, or nothing if a character is not of the alphabet.
std::optional<std::string> bytes_of_letters(std::string_view letters);

/// The byte of a byte-fallback piece such as "<0x0A>".
std::optional<char> byte_of_piece(std::string_view piece);

/// The byte-fallback piece of a byte, for example "<0x0A>".
std::string piece_of_byte(char byte);

}  // namespace fourfold::text
