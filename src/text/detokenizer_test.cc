#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "text/utf8.h"

namespace fourfold::text {
namespace {

// All bytes as tokens 0 to 255, then some longer pieces, a special token, and a gap before it.
Tokenizer byte_tokenizer(bool space_prefix) {
  SentencePieceVocab vocab;
  const auto add = [&](std::string piece, SentencePieceVocab::Type type) {
    vocab.pieces.push_back(std::move(piece));
    vocab.scores.push_back(0);
    vocab.types.push_back(type);
  };
  for (int byte = 0; byte < 256; ++byte) {
    add(fmt::format("<0x{:02X}>", byte), SentencePieceVocab::kByte);
  }
  for (const char* piece : {"▁", "▁▁a", "é", "😀", "b"}) add(piece, SentencePieceVocab::kNormal);
  add("<s>", SentencePieceVocab::kControl);
  vocab.add_bos = false;
  vocab.add_space_prefix = space_prefix;
  return *tokenizer_from_sentencepiece(std::move(vocab));
}

constexpr int32_t kSpace = 256;
constexpr int32_t kControl = 261;

TEST(Detokenizer, NeverEmitsHalfACharacter) {
  IncrementalDetokenizer detokenizer(byte_tokenizer(false), {});
  EXPECT_EQ(detokenizer.push(0xF0), "");
  EXPECT_EQ(detokenizer.push(0x9F), "");
  EXPECT_EQ(detokenizer.push(0x98), "");
  EXPECT_EQ(detokenizer.push(0x80), "😀");
  EXPECT_EQ(detokenizer.push(0xC3), "");
  EXPECT_EQ(detokenizer.push('a'), "\uFFFDa");
  EXPECT_EQ(detokenizer.push(0xE2), "");
  EXPECT_EQ(detokenizer.push(0x82), "");
  EXPECT_EQ(detokenizer.flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.flush(), "");
}

TEST(Detokenizer, KeepsTheLeadingSpaceOfAContinuation) {
  const Tokenizer tokenizer = byte_tokenizer(true);
  IncrementalDetokenizer start(tokenizer, {});
  EXPECT_EQ(start.push(kSpace), "");
  EXPECT_EQ(start.push(kSpace), " ");
  IncrementalDetokenizer continuation(tokenizer, {.continues_text = true});
  EXPECT_EQ(continuation.push(kSpace), " ");
}

TEST(Detokenizer, SpecialTokensAreSkippedOnlyIfTold) {
  const Tokenizer tokenizer = byte_tokenizer(true);
  IncrementalDetokenizer skipping(tokenizer, {.skip_special = true});
  EXPECT_EQ(skipping.push(kControl), "");
  EXPECT_EQ(skipping.push(kSpace), "");  // Still the start of the text.
  IncrementalDetokenizer showing(tokenizer, {.skip_special = false});
  EXPECT_EQ(showing.push(kControl), "<s>");
  EXPECT_EQ(showing.push(kSpace), " ");
}

TEST(Detokenizer, StreamsWhatTheBytesOfAllTokensSay) {
  std::mt19937 random(11);
  for (const bool space_prefix : {false, true}) {
    const Tokenizer tokenizer = byte_tokenizer(space_prefix);
    for (int round = 0; round < 2000; ++round) {
      const bool skip_special = random() % 2 == 0;
      std::vector<int32_t> ids(random() % 40);
      for (int32_t& id : ids) {
        // Mostly bytes that can begin or go on with a character.
        id = static_cast<int32_t>(random() % 4 == 0 ? random() % 270 : 0x80 + random() % 0x78);
      }
      std::string bytes;
      for (const int32_t id : ids) {
        if (!(skip_special && tokenizer.is_special(id))) bytes += tokenizer.token_bytes(id);
      }
      if (space_prefix && bytes.starts_with(' ')) bytes.erase(0, 1);

      IncrementalDetokenizer detokenizer(tokenizer, {.skip_special = skip_special});
      std::string streamed;
      for (const int32_t id : ids) {
        const std::string text = detokenizer.push(id);
        EXPECT_EQ(valid_utf8(text), text);
        streamed += text;
      }
      streamed += detokenizer.flush();
      ASSERT_EQ(streamed, valid_utf8(bytes));
      ASSERT_EQ(tokenizer.decode(ids, skip_special), streamed);
    }
  }
}

}  // namespace
}  // namespace fourfold::text
