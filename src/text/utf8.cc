#include "text/utf8.h"

#include "base/check.h"

namespace fourfold::text {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// A lead byte fixes the length and the range of the second byte (Unicode 15, table 3-7).
struct Lead {
  int length;  // 0: not a lead byte.
  uint8_t second_min;
  uint8_t second_max;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Step utf8_step(std::string_view bytes) {
  const auto byte = [&](int i) { return static_cast<uint8_t>(bytes[static_cast<size_t>(i)]); };
  if (byte(0) < 0x80) return {Utf8Step::Kind::kCharacter, 1, byte(0)};
  const Lead lead = lead_of(byte(0));
  if (lead.length == 0) return {Utf8Step::Kind::kInvalid, 1, kReplacement};
  char32_t code_point = byte(0) & (0xFFU >> (lead.length + 1));
  for (int i = 1; i < lead.length; ++i) {
    if (i == static_cast<int>(bytes.size())) return {Utf8Step::Kind::kTruncated, i, kReplacement};
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte(i) < min || byte(i) > max) return {Utf8Step::Kind::kInvalid, i, kReplacement};
    code_point = code_point << 6 | (byte(i) & 0x3FU);
  }
  return {Utf8Step::Kind::kCharacter, lead.length, code_point};
}

int64_t append_valid_utf8(std::string_view bytes, bool more_follows, std::string* out) {
  size_t begin = 0;  // Start of the well-formed bytes that are not yet copied.
  size_t at = 0;
  while (at < bytes.size()) {
    if (static_cast<uint8_t>(bytes[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Step step = utf8_step(bytes.substr(at));
    if (step.kind == Utf8Step::Kind::kTruncated && more_follows) break;
    if (step.kind != Utf8Step::Kind::kCharacter) {
      out->append(bytes.substr(begin, at - begin));
      append_code_point(kReplacement, out);
      begin = at + static_cast<size_t>(step.length);
    }
    at += static_cast<size_t>(step.length);
  }
  out->append(bytes.substr(begin, at - begin));
  return static_cast<int64_t>(at);
}

std::string valid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  append_valid_utf8(bytes, /*more_follows=*/false, &out);
  return out;
}

void append_code_point(char32_t code_point, std::string* out) {
  CHECK(code_point <= 0x10FFFF && (code_point < 0xD800 || code_point > 0xDFFF),
        "U+{:04X} has no UTF-8 form", static_cast<uint32_t>(code_point));
  const auto put = [&](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  CHECK(!from.empty(), "nothing to replace");
  std::string out;
  out.reserve(text.size());
  size_t at = 0;
  for (size_t hit; (hit = text.find(from, at)) != std::string_view::npos; at = hit + from.size()) {
    out.append(text.substr(at, hit - at)).append(to);
  }
  out.append(text.substr(at));
  return out;
}

}  // namespace fourfold::text
