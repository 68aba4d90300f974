// Text that arrives in pieces: UTF-8, the detokenizer, stop strings. One line of stop strings apart
// by commas, then a stream whose zero bytes show where it is cut.
#include <algorithm>

#include "tests/fuzz/fuzz_target.h"
#include "text/detokenizer.h"
#include "text/stop_strings.h"
#include "text/utf8.h"

namespace fourfold::fuzz {
namespace {

std::vector<std::string_view> pieces_of(std::string_view stream) {
  std::vector<std::string_view> out;
  while (!stream.empty()) out.push_back(take_until(&stream, '\0'));
  return out;
}

void check_utf8(const std::vector<std::string_view>& pieces, const std::string& whole) {
  const std::string valid = text::valid_utf8(whole);
  CHECK(text::valid_utf8(valid) == valid, "made valid twice it differs");
  std::string streamed;
  std::string pending;
  for (const std::string_view piece : pieces) {
    pending += piece;
    const int64_t taken = text::append_valid_utf8(pending, /*more_follows=*/true, &streamed);
    pending.erase(0, static_cast<size_t>(taken));
    CHECK(pending.size() <= 3, "{} bytes are held back", pending.size());
  }
  CHECK(streamed + text::valid_utf8(pending) == valid, "piece by piece it differs");
}

// The first end of any stop string, and the longest that ends there.
struct Found {
  size_t end = std::string::npos;
  size_t length = 0;
};
Found search(const std::vector<std::string>& stops, std::string_view whole) {
  Found best;
  for (const std::string& stop : stops) {
    const size_t begin = whole.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end < best.end || (end == best.end && stop.size() > best.length)) best = {end, stop.size()};
  }
  return best;
}

void check_stops(std::vector<std::string> stops, const std::vector<std::string_view>& pieces,
                 std::string_view whole) {
  for (const bool include_stop : {false, true}) {
    auto checker = text::StopChecker::create(stops, include_stop);
    if (!checker.ok()) return;
    std::string streamed;
    bool stopped = false;
    for (const std::string_view piece : pieces) {
      const text::StopChecker::Output output = checker->push(piece);
      streamed += output.text;
      stopped = stopped || output.stop.has_value();
    }
    streamed += checker->flush();
    const Found found = search(stops, whole);
    CHECK(stopped == (found.end != std::string::npos), "found: {}", stopped);
    const size_t end = stopped ? found.end - (include_stop ? 0 : found.length) : whole.size();
    CHECK(streamed == whole.substr(0, end), "{} bytes of {}", streamed.size(), whole.size());
  }
}

// Every byte is a token, and some pairs are.
text::Tokenizer byte_tokenizer() {
  text::SentencePieceVocab vocab;
  const auto add = [&](std::string piece, int32_t type) {
    vocab.pieces.push_back(std::move(piece));
    vocab.scores.push_back(0);
    vocab.types.push_back(type);
  };
  for (int byte = 0; byte < 256; ++byte) {
    add(fmt::format("<0x{:02X}>", byte), text::SentencePieceVocab::kByte);
  }
  add("\xe2\x96\x81", text::SentencePieceVocab::kNormal);
  add("ab", text::SentencePieceVocab::kNormal);
  vocab.add_bos = false;
  return text::tokenizer_from_sentencepiece(std::move(vocab)).value();
}

void check_detokenizer(const std::string& whole) {
  static const text::Tokenizer kTokenizer = byte_tokenizer();
  std::vector<int32_t> ids;
  for (const char byte : whole) ids.push_back(static_cast<uint8_t>(byte));
  for (const bool continues_text : {false, true}) {
    text::IncrementalDetokenizer stream(kTokenizer,
                                        {.skip_special = true, .continues_text = continues_text});
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    streamed += stream.flush();
    std::string expected = whole;
    if (!continues_text && expected.starts_with(' ')) expected.erase(0, 1);
    CHECK(streamed == text::valid_utf8(expected), "{} bytes come back differently", whole.size());
  }
  const auto encoded = kTokenizer.encode(whole, /*add_special=*/false);
  CHECK(encoded.ok() && kTokenizer.decode(*encoded, false) == text::valid_utf8(whole),
        "{} bytes do not come back", whole.size());
}

}  // namespace

void check_input(std::string_view input) {
  std::string_view line = take_until(&input, '\n');
  std::vector<std::string> stops;
  while (!line.empty() && stops.size() < 8) stops.emplace_back(take_until(&line, ','));
  const std::vector<std::string_view> pieces = pieces_of(input);
  std::string whole;
  for (const std::string_view piece : pieces) whole += piece;
  check_utf8(pieces, whole);
  check_stops(std::move(stops), pieces, whole);
  check_detokenizer(whole);
}

}  // namespace fourfold::fuzz
