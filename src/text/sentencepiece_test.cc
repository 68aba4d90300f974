#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "text/tokenizer.h"

namespace fourfold::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Type = SentencePieceVocab::Type;

SentencePieceVocab small_vocab() {
  SentencePieceVocab vocab;
  const auto add = [&](const char* piece, float score, Type type) {
    vocab.pieces.emplace_back(piece);
    vocab.scores.push_back(score);
    vocab.types.push_back(type);
  };
  add("<unk>", 0, Type::kUnknown);   // 0
  add("<s>", 0, Type::kControl);     // 1
  add("</s>", 0, Type::kControl);    // 2
  add("▁", -9, Type::kNormal);       // 3
  add("a", -9, Type::kNormal);       // 4
  add("b", -9, Type::kNormal);       // 5
  add("ab", -2, Type::kNormal);      // 6
  add("▁a", -1, Type::kNormal);      // 7
  add("bb", -3, Type::kUnused);      // 8
  add("bbb", -4, Type::kNormal);     // 9
  add("  ", 0, Type::kUserDefined);  // 10, with plain spaces as GGUF has them.
  add("c", -9, Type::kUnused);       // 11
  vocab.bos_id = 1;
  vocab.eos_id = 2;
  vocab.unk_id = 0;
  vocab.add_space_prefix = false;
  return vocab;
}

Tokenizer make(SentencePieceVocab vocab) {
  auto tokenizer = tokenizer_from_sentencepiece(std::move(vocab));
  CHECK(tokenizer.ok(), "{}", tokenizer.error().message);
  return *tokenizer;
}

std::vector<int32_t> encode(const SentencePieceVocab& vocab, std::string_view text,
                            bool add_special = false) {
  return *make(vocab).encode(text, add_special);
}

TEST(SentencePiece, MergesTheHighestScoreThenTheLeftmost) {
  EXPECT_THAT(encode(small_vocab(), "ab ab"), ElementsAre(6, 7, 5));
  SentencePieceVocab equal = small_vocab();
  equal.scores[6] = equal.scores[7] = -1;
  EXPECT_THAT(encode(equal, " ab"), ElementsAre(7, 5));
  EXPECT_THAT(encode(equal, ""), IsEmpty());
}

TEST(SentencePiece, UserDefinedPiecesComeFirstAndDoNotMerge) {
  EXPECT_THAT(encode(small_vocab(), "  ab"), ElementsAre(10, 6));
  EXPECT_THAT(encode(small_vocab(), "   a"), ElementsAre(10, 7));
}

TEST(SentencePiece, ControlPiecesInATextAreText) {
  EXPECT_THAT(encode(small_vocab(), "<s>"), ElementsAre(0));
}

TEST(SentencePiece, ControlPiecesInAMarkedTextAreTokens) {
  const Tokenizer tokenizer = make(small_vocab());
  EXPECT_THAT(*tokenizer.encode_marked("<s>ab</s><s> ab"), ElementsAre(1, 6, 2, 1, 7, 5));
  EXPECT_THAT(*tokenizer.encode_marked("ab ab"), ElementsAre(6, 7, 5));
  EXPECT_THAT(*tokenizer.encode_marked("a<s>"), ElementsAre(4, 1));
  EXPECT_THAT(*tokenizer.encode_marked(""), IsEmpty());
}

TEST(SentencePiece, UnusedPiecesFallApart) {
  EXPECT_THAT(encode(small_vocab(), "bb"), ElementsAre(5, 5));
  EXPECT_THAT(encode(small_vocab(), "bbb"), ElementsAre(9));
  EXPECT_THAT(encode(small_vocab(), "cxc"), ElementsAre(0));
}

TEST(SentencePiece, BytesStandInForUnknownCharacters) {
  SentencePieceVocab vocab = small_vocab();
  for (int byte = 0; byte < 256; ++byte) {
    vocab.pieces.push_back(fmt::format("<0x{:02X}>", byte));
    vocab.scores.push_back(0);
    vocab.types.push_back(Type::kByte);
  }
  const auto ids = encode(vocab, "aé\xFF");
  EXPECT_THAT(ids, ElementsAre(4, 12 + 0xC3, 12 + 0xA9, 12 + 0xEF, 12 + 0xBF, 12 + 0xBD));
  EXPECT_EQ(make(vocab).decode(ids, true), "aé\uFFFD");
}

TEST(SentencePiece, TheSpacePrefixIsAddedAndTakenAway) {
  SentencePieceVocab vocab = small_vocab();
  vocab.add_space_prefix = true;
  vocab.add_eos = true;
  EXPECT_THAT(encode(vocab, "ab", true), ElementsAre(1, 7, 5, 2));
  EXPECT_THAT(encode(vocab, "", true), ElementsAre(1, 2));
  const Tokenizer tokenizer = make(vocab);
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{1, 7, 5, 3, 4, 2}, true), "ab a");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{1, 7, 5}, false), "<s> ab");
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(4));
  EXPECT_EQ(tokenizer.token_bytes(7), " a");
}

TEST(SentencePiece, RefusesAVocabularyThatDoesNotFitTogether) {
  const auto error = [](auto&& change) {
    SentencePieceVocab vocab = small_vocab();
    change(&vocab);
    const auto tokenizer = tokenizer_from_sentencepiece(std::move(vocab));
    return tokenizer.ok() ? std::string() : tokenizer.error().message;
  };
  EXPECT_EQ(error([](SentencePieceVocab*) {}), "");
  EXPECT_THAT(error([](auto* v) { v->scores.pop_back(); }), HasSubstr("12 pieces, 11 scores"));
  EXPECT_THAT(error([](auto* v) { v->types[3] = 7; }), HasSubstr("piece 3 has the type 7"));
  EXPECT_THAT(error([](auto* v) { v->scores[3] = std::numeric_limits<float>::quiet_NaN(); }),
              HasSubstr("not a number"));
  EXPECT_THAT(error([](auto* v) { v->types[3] = Type::kByte; }), HasSubstr("byte piece 3"));
  EXPECT_THAT(error([](auto* v) { v->bos_id = 12; }), HasSubstr("bos id is 12"));
  EXPECT_THAT(error([](auto* v) { v->bos_id = -1; }), HasSubstr("no bos id"));
  EXPECT_THAT(error([](auto* v) { v->unk_id = -1; }), HasSubstr("neither an unknown piece"));
  EXPECT_THAT(error([](auto* v) { v->pieces[3].assign(5000, 'x'); }), HasSubstr("at most 4096"));
}

}  // namespace
}  // namespace fourfold::text
