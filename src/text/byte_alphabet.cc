#include "text/byte_alphabet.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdint>

#include "text/utf8.h"

namespace fourfold::text {
namespace {

struct Alphabet {
  std::array<std::string, 256> letter;  // By byte.
  std::array<int16_t, 0x144> byte_of;   // By code point; -1 where it is no letter.
};

Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte_of.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const char32_t code_point = printable ? static_cast<char32_t>(byte) : next++;
    append_code_point(code_point, &alphabet.letter[static_cast<size_t>(byte)]);
    alphabet.byte_of[code_point] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

const Alphabet& alphabet() {
  static const Alphabet kAlphabet = make_alphabet();
  return kAlphabet;
}

}  // namespace

void append_byte_letters(std::string_view bytes, std::string* out) {
  for (const char byte : bytes) out->append(alphabet().letter[static_cast<uint8_t>(byte)]);
}

std::optional<std::string> bytes_of_letters(std::string_view letters) {
  std::string out;
  while (!letters.empty()) {
    const Utf8Step step = utf8_step(letters);
    const auto& byte_of = alphabet().byte_of;
    if (step.code_point >= byte_of.size() || byte_of[step.code_point] < 0) return std::nullopt;
    out.push_back(static_cast<char>(byte_of[step.code_point]));
    letters.remove_prefix(static_cast<size_t>(step.length));
  }
  return out;
}

std::optional<char> byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece.back() != '>') return std::nullopt;
  uint8_t byte = 0;
  const char* end = piece.data() + 5;
  if (std::from_chars(piece.data() + 3, end, byte, 16).ptr != end) return std::nullopt;
  return static_cast<char>(byte);
}

std::string piece_of_byte(char byte) {
  return fmt::format("<0x{:02X}>", static_cast<uint8_t>(byte));
}

}  // namespace fourfold::text
