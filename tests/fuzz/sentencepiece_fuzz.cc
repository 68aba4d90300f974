// A SentencePiece vocabulary as lines: one of switches and ids, then one a piece (its type, its
// score, its bytes); after a zero byte a text.
#include <limits>

#include "tests/fuzz/check_tokenizer.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {
namespace {

// Digits are themselves, so that a seed can be read; other bytes give numbers around them.
int number_of(std::string_view line, size_t at) { return at < line.size() ? line[at] - '0' : -1; }

float score_of(int number) {
  if (number == 'n' - '0') return std::numeric_limits<float>::quiet_NaN();
  if (number == 'i' - '0') return std::numeric_limits<float>::infinity();
  return static_cast<float>(-number);
}

}  // namespace

void check_input(std::string_view input) {
  std::string_view lines = take_until(&input, '\0');
  const std::string_view head = take_until(&lines, '\n');
  text::SentencePieceVocab vocab;
  const int switches = number_of(head, 0);
  vocab.add_bos = (switches & 1) != 0;
  vocab.add_eos = (switches & 2) != 0;
  vocab.add_space_prefix = (switches & 4) != 0;
  const bool all_bytes = (switches & 8) != 0;
  vocab.bos_id = number_of(head, 1);
  vocab.eos_id = number_of(head, 2);
  vocab.unk_id = number_of(head, 3);
  while (!lines.empty()) {
    const std::string_view line = take_until(&lines, '\n');
    vocab.types.push_back(number_of(line, 0));
    vocab.scores.push_back(score_of(number_of(line, 1)));
    vocab.pieces.emplace_back(line.substr(std::min<size_t>(2, line.size())));
  }
  for (int byte = 0; all_bytes && byte < 256; ++byte) {
    vocab.types.push_back(text::SentencePieceVocab::kByte);
    vocab.scores.push_back(0);
    vocab.pieces.push_back(fmt::format("<0x{:02X}>", byte));
  }
  const auto tokenizer = text::tokenizer_from_sentencepiece(std::move(vocab));
  if (tokenizer.ok()) check_tokenizer(*tokenizer, input);
}

}  // namespace fourfold::fuzz
