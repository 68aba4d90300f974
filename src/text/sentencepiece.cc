// Follows the published algorithm of SentencePiece's BPE model (Kudo and Richardson,
// "SentencePiece: A simple and language independent subword tokenizer", 2018).
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "files/printable.h"
#include "text/byte_alphabet.h"
#include "text/merge.h"
#include "text/piece_index.h"
#include "text/prefix_matcher.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace fourfold::text {
namespace {

using base::fail;
using base::Result;
using base::Status;

constexpr std::string_view kSpace = "\u2581";
// Real pieces stay far below; it bounds the work and the recursion per piece.
constexpr size_t kMaxPieceBytes = 4096;

class SentencePieceEncoder final : public Encoder {
 public:
  static Result<std::unique_ptr<const Encoder>> create(const SentencePieceVocab& vocab);
  Status encode(std::string_view text, std::vector<int32_t>* ids) const override;
  Status encode_marked(std::string_view text, std::vector<int32_t>* ids) const override;

 private:
  // How the last proposed merge made a piece: needed for pieces that are not to be used.
  using Halves =
      std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>>;

  void add_symbols(std::string_view text, MergeScratch* scratch) const;
  void append_piece(std::string_view piece, int32_t id, const Halves& halves,
                    std::vector<int32_t>* ids) const;
  bool is(int32_t id, SentencePieceVocab::Type type) const {
    return id >= 0 && types_[static_cast<size_t>(id)] == type;
  }

  PieceIndex pieces_;  // Those that text can become: normal, user-defined, unused.
  size_t longest_piece_ = 0;
  std::vector<int32_t> types_;
  std::vector<int32_t> ranks_;  // By id: 0 for the highest score, equal for equal scores.
  PrefixMatcher user_defined_;
  PrefixMatcher control_;
  std::optional<std::array<int32_t, 256>> byte_ids_;
  int32_t unknown_ = -1;
  bool add_space_prefix_ = false;
};

std::vector<int32_t> ranks_of(const std::vector<float>& scores) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, std::ranges::greater{}, [&](size_t id) { return scores[id]; });
  std::vector<int32_t> ranks(scores.size());
  int32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && scores[order[i]] != scores[order[i - 1]]) ++rank;
    ranks[order[i]] = rank;
  }
  return ranks;
}

Status check(const SentencePieceVocab& vocab) {
  const size_t size = vocab.pieces.size();
  if (vocab.scores.size() != size || vocab.types.size() != size) {
    return fail("the vocabulary has {} pieces, {} scores and {} types, expected as many of each",
                size, vocab.scores.size(), vocab.types.size());
  }
  for (size_t id = 0; id < size; ++id) {
    if (vocab.types[id] < SentencePieceVocab::kNormal ||
        vocab.types[id] > SentencePieceVocab::kByte) {
      return fail("the piece {} has the type {}, expected 1 to 6", id, vocab.types[id]);
    }
    if (vocab.pieces[id].size() > kMaxPieceBytes) {
      return fail("the piece {} has {} bytes; at most {} are supported", id,
                  vocab.pieces[id].size(), kMaxPieceBytes);
    }
    if (std::isnan(vocab.scores[id])) return fail("the score of the piece {} is not a number", id);
    if (vocab.types[id] == SentencePieceVocab::kByte && !byte_of_piece(vocab.pieces[id])) {
      return fail("the byte piece {} is '{}', expected <0x00> to <0xFF>", id,
                  files::printable(vocab.pieces[id]));
    }
  }
  for (const auto& [name, id] : {std::pair{"bos", vocab.bos_id}, std::pair{"eos", vocab.eos_id},
                                 std::pair{"unk", vocab.unk_id}}) {
    if (id < -1 || id >= static_cast<int64_t>(size)) {
      return fail("the {} id is {}, but the vocabulary has {} pieces", name, id, size);
    }
  }
  if (vocab.add_bos && vocab.bos_id < 0) return fail("BOS is to be added, but there is no bos id");
  if (vocab.add_eos && vocab.eos_id < 0) return fail("EOS is to be added, but there is no eos id");
  return {};
}

Result<std::unique_ptr<const Encoder>> SentencePieceEncoder::create(
    const SentencePieceVocab& vocab) {
  auto encoder = std::make_unique<SentencePieceEncoder>();
  encoder->types_ = vocab.types;
  encoder->ranks_ = ranks_of(vocab.scores);
  encoder->unknown_ = vocab.unk_id;
  encoder->add_space_prefix_ = vocab.add_space_prefix;
  encoder->pieces_.reserve(static_cast<int64_t>(vocab.pieces.size()));
  std::array<int32_t, 256> byte_ids;
  byte_ids.fill(-1);
  for (size_t i = 0; i < vocab.pieces.size(); ++i) {
    const std::string& piece = vocab.pieces[i];
    const auto id = static_cast<int32_t>(i);
    if (vocab.types[i] == SentencePieceVocab::kByte) {
      byte_ids[static_cast<uint8_t>(*byte_of_piece(piece))] = id;
    }
    if (vocab.types[i] == SentencePieceVocab::kControl && !piece.empty()) {
      FF_TRY(encoder->control_.add(piece, id));
    }
    if (piece.empty() || vocab.types[i] == SentencePieceVocab::kByte ||
        vocab.types[i] == SentencePieceVocab::kControl ||
        vocab.types[i] == SentencePieceVocab::kUnknown) {
      continue;
    }
    encoder->pieces_.add(piece, id);
    encoder->longest_piece_ = std::max(encoder->longest_piece_, piece.size());
    if (vocab.types[i] == SentencePieceVocab::kUserDefined) {
      FF_TRY(encoder->user_defined_.add(piece, id));
    }
  }
  if (std::ranges::find(byte_ids, -1) == byte_ids.end()) {
    encoder->byte_ids_ = byte_ids;
  } else if (vocab.unk_id < 0) {
    return fail(
        "the vocabulary has neither an unknown piece nor all 256 byte pieces, so that not every "
        "text can be encoded");
  }
  return std::unique_ptr<const Encoder>(std::move(encoder));
}

void SentencePieceEncoder::add_symbols(std::string_view text, MergeScratch* scratch) const {
  for (size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    PrefixMatcher::Match match = user_defined_.longest(rest);
    if (match.length == 0) {
      match.length = utf8_step(rest).length;
      match.id = pieces_.find(rest.substr(0, static_cast<size_t>(match.length))).value_or(-1);
    }
    scratch->add_symbol(match.id, static_cast<int32_t>(at), static_cast<int32_t>(match.length));
    at += static_cast<size_t>(match.length);
  }
}

// An unused piece is given as the two pieces that it was made of; a single character that is unused
// is unknown.
void SentencePieceEncoder::append_piece(std::string_view piece, int32_t id, const Halves& halves,
                                        std::vector<int32_t>* ids) const {
  const bool unused = is(id, SentencePieceVocab::kUnused);
  const auto it = unused ? halves.find(piece) : halves.end();
  if (it != halves.end()) {
    for (const std::string_view half : {it->second.first, it->second.second}) {
      append_piece(half, pieces_.find(half).value_or(-1), halves, ids);
    }
  } else if (id >= 0 && !unused) {
    ids->push_back(id);
  } else if (byte_ids_) {
    for (const char byte : piece) ids->push_back((*byte_ids_)[static_cast<uint8_t>(byte)]);
  } else if (ids->empty() || ids->back() != unknown_) {
    ids->push_back(unknown_);
  }
}

Status SentencePieceEncoder::encode_marked(std::string_view text, std::vector<int32_t>* ids) const {
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const PrefixMatcher::Match match = control_.longest(text.substr(at));
    if (match.length == 0) {
      ++at;
      continue;
    }
    if (at > begin) FF_TRY(encode(text.substr(begin, at - begin), ids));
    ids->push_back(match.id);
    at += static_cast<size_t>(match.length);
    begin = at;
  }
  return begin < text.size() ? encode(text.substr(begin), ids) : Status();
}

Status SentencePieceEncoder::encode(std::string_view text, std::vector<int32_t>* ids) const {
  if (text.empty()) return {};
  const std::string normalized =
      (add_space_prefix_ ? std::string(kSpace) : std::string()) + replace_all(text, " ", kSpace);
  const std::string_view view = normalized;
  const auto part = [&](const Symbol& symbol) {
    return view.substr(static_cast<size_t>(symbol.begin), static_cast<size_t>(symbol.length));
  };
  MergeScratch scratch;
  add_symbols(view, &scratch);
  Halves halves;
  merge_symbols(&scratch, [&](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
    const auto length = static_cast<size_t>(left.length) + static_cast<size_t>(right.length);
    if (length > longest_piece_ || is(left.id, SentencePieceVocab::kUserDefined) ||
        is(right.id, SentencePieceVocab::kUserDefined)) {
      return std::nullopt;
    }
    const std::string_view whole = view.substr(static_cast<size_t>(left.begin), length);
    const auto id = pieces_.find(whole);
    if (!id) return std::nullopt;
    if (is(*id, SentencePieceVocab::kUnused)) halves[whole] = {part(left), part(right)};
    return Merge{ranks_[static_cast<size_t>(*id)], *id};
  });
  for (const Symbol& symbol : scratch.symbols) {
    if (symbol.length > 0) append_piece(part(symbol), symbol.id, halves, ids);
  }
  return {};
}

}  // namespace

Result<Tokenizer> tokenizer_from_sentencepiece(SentencePieceVocab vocab) {
  FF_TRY(check(vocab));
  // GGUF files have user-defined pieces with plain spaces, all others with the mark.
  for (size_t id = 0; id < vocab.pieces.size(); ++id) {
    if (vocab.types[id] == SentencePieceVocab::kUserDefined) {
      vocab.pieces[id] = replace_all(vocab.pieces[id], " ", kSpace);
    }
  }
  FF_ASSIGN(std::unique_ptr<const Encoder> encoder, SentencePieceEncoder::create(vocab));
  Vocabulary vocabulary(std::ssize(vocab.pieces));
  for (size_t i = 0; i < vocab.pieces.size(); ++i) {
    std::string& piece = vocab.pieces[i];
    const bool special = vocab.types[i] == SentencePieceVocab::kControl ||
                         vocab.types[i] == SentencePieceVocab::kUnknown;
    std::string bytes = special ? piece : replace_all(piece, kSpace, " ");
    if (vocab.types[i] == SentencePieceVocab::kByte) bytes = *byte_of_piece(piece);
    FF_TRY(vocabulary.add(static_cast<int32_t>(i), std::move(piece), std::move(bytes), special));
  }
  if (vocab.bos_id >= 0) vocabulary.bos = vocab.bos_id;
  if (vocab.eos_id >= 0) vocabulary.eos = vocab.eos_id;
  if (vocab.add_bos) vocabulary.prefix.push_back(vocab.bos_id);
  if (vocab.add_eos) vocabulary.suffix.push_back(vocab.eos_id);
  if (vocab.add_space_prefix) vocabulary.text_start = {.strip = " ", .strip_count = 1, .drop = ""};
  return Tokenizer(std::move(vocabulary), std::move(encoder));
}

}  // namespace fourfold::text
