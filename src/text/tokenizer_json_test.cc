#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include "text/json.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace fourfold::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Pieces of one character, two merges, an unknown token.
Json small_tokenizer() {
  return Json::parse(R"({
    "added_tokens": [],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "?",
      "vocab": {"?": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "abc": 5, "bc": 6, "_": 7},
      "merges": ["b c", "a b", ["a", "bc"]]}})");
}

Json added_token(int id, const char* content) {
  return {{"id", id},        {"content", content}, {"special", false},    {"normalized", false},
          {"lstrip", false}, {"rstrip", false},    {"single_word", false}};
}

base::Result<Tokenizer> load(const Json& json, const Json& config = Json::object()) {
  return tokenizer_from_json(json.dump(), config.dump());
}

std::string load_error(const Json& json, const Json& config = Json::object()) {
  const auto tokenizer = load(json, config);
  return tokenizer.ok() ? "" : tokenizer.error().message;
}

std::vector<int32_t> encode(const Json& json, std::string_view text, bool add_special = false) {
  const auto tokenizer = load(json);
  CHECK(tokenizer.ok(), "{}", tokenizer.error().message);
  const auto ids = tokenizer->encode(text, add_special);
  CHECK(ids.ok(), "{}", ids.error().message);
  return *ids;
}

TEST(BpeModel, MergesThePairThatWasLearntFirst) {
  const Json json = small_tokenizer();
  EXPECT_THAT(encode(json, "abc"), ElementsAre(5));  // b c, then a bc.
  EXPECT_THAT(encode(json, "abab"), ElementsAre(4, 4));
  EXPECT_THAT(encode(json, "bcab"), ElementsAre(6, 4));
  EXPECT_THAT(encode(json, ""), IsEmpty());
}

TEST(BpeModel, TheLaterOfTwoEqualMergesCounts) {
  Json json = small_tokenizer();
  json["model"]["merges"] = {"b c", "a b", "b c"};
  EXPECT_THAT(encode(json, "abc"), ElementsAre(4, 3));
}

TEST(BpeModel, IgnoreMergesTakesAWholeWord) {
  Json json = small_tokenizer();
  json["model"]["merges"] = Json::array();
  EXPECT_THAT(encode(json, "abc"), ElementsAre(1, 2, 3));
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(encode(json, "abc"), ElementsAre(5));
}

TEST(BpeModel, UnknownCharactersFuseOnlyIfTold) {
  Json json = small_tokenizer();
  EXPECT_THAT(encode(json, "xyaz"), ElementsAre(0, 0, 1, 0));
  json["model"]["fuse_unk"] = true;
  EXPECT_THAT(encode(json, "xyaz"), ElementsAre(0, 1, 0));
  json["model"]["unk_token"] = nullptr;
  EXPECT_THAT(encode(json, "xyaz"), ElementsAre(1));
}

TEST(BpeModel, BytesStandInForUnknownCharactersIfAllAreThere) {
  Json json = small_tokenizer();
  json["model"]["byte_fallback"] = true;
  json["model"]["vocab"]["<0xC3>"] = 8;
  EXPECT_THAT(encode(json, "é"), ElementsAre(0));
  json["model"]["vocab"]["<0xA9>"] = 9;
  EXPECT_THAT(encode(json, "é"), ElementsAre(8, 9));
}

TEST(BpeModel, ReadsInvalidUtf8AsReplacementCharacters) {
  Json json = small_tokenizer();
  json["model"]["vocab"]["\uFFFD"] = 8;
  EXPECT_THAT(encode(json, "a\xF0\x9F\x98z\xFF"), ElementsAre(1, 8, 0, 8));
}

TEST(AddedTokens, TheLongestAtTheLeftmostPlaceWins) {
  Json json = small_tokenizer();
  json["added_tokens"] = {added_token(10, "<a>"), added_token(11, "<a>b"), added_token(12, "b<")};
  EXPECT_THAT(encode(json, "<a>bc<a>"), ElementsAre(11, 3, 10));
  EXPECT_THAT(encode(json, "b<a>"), ElementsAre(12, 1, 0));
}

TEST(AddedTokens, TakeWhiteSpaceAlongWhereTold) {
  Json json = small_tokenizer();
  json["model"]["vocab"][" "] = 8;
  json["added_tokens"] = {added_token(10, "<l>"), added_token(11, "<r>")};
  json["added_tokens"][0]["lstrip"] = true;
  json["added_tokens"][1]["rstrip"] = true;
  EXPECT_THAT(encode(json, "a \u3000<l> a"), ElementsAre(1, 10, 8, 1));
  EXPECT_THAT(encode(json, "a <r>\n a"), ElementsAre(1, 8, 11, 1));
  EXPECT_THAT(encode(json, "<r> <l>"), ElementsAre(11, 10));
}

TEST(AddedTokens, SingleWordsStandBetweenCharactersThatAreNoWord) {
  Json json = small_tokenizer();
  json["added_tokens"] = {added_token(10, "ca")};
  json["added_tokens"][0]["single_word"] = true;
  EXPECT_THAT(encode(json, "ca"), ElementsAre(10));
  EXPECT_THAT(encode(json, "-ca."), ElementsAre(0, 10, 0));
  EXPECT_THAT(encode(json, "bca"), ElementsAre(6, 1));
  EXPECT_THAT(encode(json, "caé"), ElementsAre(3, 1, 0));
}

TEST(AddedTokens, NormalizedOnesAreFoundInTheNormalizedText) {
  Json json = small_tokenizer();
  json["normalizer"] = {{"type", "Lowercase"}};
  json["added_tokens"] = {added_token(10, "Ab"), added_token(11, "Cc")};
  json["added_tokens"][0]["normalized"] = true;
  EXPECT_THAT(encode(json, "aBCc"), ElementsAre(10, 11));
  EXPECT_THAT(encode(json, "cc"), ElementsAre(3, 3));
  const auto tokenizer = load(json);
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{10, 11}, false), "abCc");
}

TEST(AddedTokens, TheConfigMayNameFurtherOnes) {
  const Json config = {{"added_tokens_decoder", {{"10", added_token(10, "<x>")}}},
                       {"bos_token", {{"content", "<x>"}}},
                       {"eos_token", "a"}};
  const auto tokenizer = load(small_tokenizer(), config);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->bos(), 10);
  EXPECT_EQ(tokenizer->eos(), 1);
  EXPECT_EQ(tokenizer->vocab_size(), 11);
  EXPECT_EQ(tokenizer->token_to_id("<x>"), 10);
  EXPECT_EQ(tokenizer->token_to_id("<y>"), std::nullopt);
  EXPECT_THAT(*tokenizer->encode("a<x>", false), ElementsAre(1, 10));
}

TEST(TokenizerJson, TheTemplatePutsSpecialTokensAround) {
  Json json = small_tokenizer();
  json["post_processor"] = Json::parse(R"({"type": "Sequence", "processors": [
    {"type": "ByteLevel", "trim_offsets": true},
    {"type": "TemplateProcessing",
     "single": [{"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "E", "type_id": 0}}],
     "special_tokens": {"B": {"id": "B", "ids": [7, 7], "tokens": []},
                        "E": {"id": "E", "ids": [6], "tokens": []}}}]})");
  EXPECT_THAT(encode(json, "a", true), ElementsAre(7, 7, 1, 6));
  EXPECT_THAT(encode(json, "", true), ElementsAre(7, 7, 6));
  EXPECT_THAT(encode(json, "a", false), ElementsAre(1));
}

TEST(TokenizerJson, DecodesWithTheRulesForTheStartOfAText) {
  Json json = small_tokenizer();
  json["added_tokens"] = {added_token(10, "<s>")};
  json["added_tokens"][0]["special"] = true;
  const auto decode = [&](std::vector<int32_t> ids, bool skip_special) {
    const auto tokenizer = load(json);
    CHECK(tokenizer.ok(), "{}", tokenizer.error().message);
    return tokenizer->decode(ids, skip_special);
  };
  EXPECT_EQ(decode({7, 1, 7, 4}, false), "a ab");
  EXPECT_EQ(decode({7, 7, 1}, false), " a");
  EXPECT_EQ(decode({10, 7, 1}, true), "a");
  EXPECT_EQ(decode({10, 7, 1}, false), "<s> a");
  EXPECT_EQ(decode({1, 9, -1, 1'000'000, 2}, false), "ab");  // Ids without a token.
  json["decoder"] = {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "always"}};
  EXPECT_EQ(decode({7, 7, 1}, false), " a");
  EXPECT_EQ(decode({1, 7, 1}, false), "a a");
}

TEST(TokenizerJson, NamesWhatItDoesNotSupport) {
  const auto with = [](const char* pointer, const char* value) {
    Json json = small_tokenizer();
    json[Json::json_pointer(pointer)] = Json::parse(value);
    return load_error(json);
  };
  EXPECT_THAT(with("/model/type", R"("Unigram")"), HasSubstr("'Unigram'"));
  EXPECT_THAT(with("/model/dropout", "0.1"), HasSubstr("model/dropout is 0.1"));
  EXPECT_THAT(with("/model/end_of_word_suffix", R"("</w>")"), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(with("/model/unk_token", R"("!")"), HasSubstr("unk_token '!'"));
  EXPECT_THAT(with("/normalizer", R"({"type":"BertNormalizer"})"), HasSubstr("'BertNormalizer'"));
  EXPECT_THAT(with("/pre_tokenizer", R"({"type":"Delimiter"})"), HasSubstr("'Delimiter'"));
  EXPECT_THAT(with("/post_processor", R"({"type":"BertProcessing"})"),
              HasSubstr("'BertProcessing'"));
  EXPECT_THAT(with("/decoder", R"({"type":"CTC"})"), HasSubstr("'CTC'"));
  EXPECT_THAT(with("/decoder", "null"), HasSubstr("lacks 'decoder'"));
  EXPECT_THAT(with("/decoder/decoders/3/stop", "1"), HasSubstr("stop is 1"));
  EXPECT_THAT(with("/decoder/decoders/0", R"({"type":"Fuse"})"), HasSubstr("this order"));
}

TEST(TokenizerJson, NamesWhatDoesNotFitTogether) {
  const auto with = [](const char* pointer, const char* value) {
    Json json = small_tokenizer();
    json[Json::json_pointer(pointer)] = Json::parse(value);
    return load_error(json);
  };
  EXPECT_THAT(with("/model/vocab/x", "-1"), HasSubstr("model/vocab is -1"));
  EXPECT_THAT(with("/model/vocab/x", "99999999999"), HasSubstr("model/vocab is 99999999999"));
  EXPECT_THAT(with("/model/vocab/x", "1"), HasSubstr("both have the id 1"));
  EXPECT_THAT(with("/model/merges/0", R"("a b c")"), HasSubstr("is not a pair"));
  EXPECT_THAT(with("/model/merges/0", R"("a c")"), HasSubstr("the whole is not in the vocabulary"));
  EXPECT_THAT(with("/added_tokens/0", R"({"id":9,"content":"a"})"), HasSubstr("'a' has the id 9"));
  EXPECT_THAT(with("/added_tokens/0", R"({"id":3,"content":"x"})"),
              HasSubstr("both have the id 3"));
  EXPECT_THAT(load_error(small_tokenizer(), {{"bos_token", "<s>"}}),
              HasSubstr("bos_token is '<s>'"));
  EXPECT_THAT(
      load_error(small_tokenizer(), {{"added_tokens_decoder", {{"x", added_token(10, "y")}}}}),
      HasSubstr("not named by a token id"));
  EXPECT_THAT(load_error(Json::parse("[]")), HasSubstr("tokenizer.json"));
  EXPECT_FALSE(tokenizer_from_json("{", "").ok());
  EXPECT_FALSE(tokenizer_from_json("", "").ok());
}

TEST(TokenizerJson, RefusesATextThatIsTooLong) {
  const auto tokenizer = load(small_tokenizer());
  const auto ids = tokenizer->encode(std::string((size_t{16} << 20) + 1, 'a'), false);
  ASSERT_FALSE(ids.ok());
  EXPECT_THAT(ids.error().message, HasSubstr("at most 16777216"));
}

TEST(TokenizerJson, MergesAMegabyteOfOneCharacter) {
  Json json = small_tokenizer();
  std::string piece = "a";
  int id = 10;
  json["model"]["merges"] = Json::array();
  for (int i = 0; i < 5; ++i, piece += piece) {
    json["model"]["merges"].push_back({piece, piece});
    json["model"]["vocab"][piece + piece] = id++;
  }
  const auto ids = encode(json, std::string(size_t{1} << 20, 'a'));
  EXPECT_EQ(ids, std::vector<int32_t>((size_t{1} << 20) / 32, 14));
}

TEST(TokenizerJson, ManyThreadsMayUseOneTokenizer) {
  std::ifstream file(FOURFOLD_SOURCE_DIR "/tests/golden/tokenizer/gpt2.json");
  const std::string json{std::istreambuf_iterator<char>(file), {}};
  const auto tokenizer = tokenizer_from_json(json, "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const std::string text = json.substr(0, 4000);
  const auto expected = *tokenizer->encode(text, true);
  std::vector<int> equal(4, 0);
  std::vector<std::thread> threads;
  for (int& count : equal) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        const auto ids = *tokenizer->encode(text, true);
        count += ids == expected && tokenizer->decode(ids, true) == text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(equal, testing::Each(20));
}

TEST(TokenizerJson, AFewTokensDoNotTakeATableOfMillions) {
  Json json = small_tokenizer();
  json["model"]["vocab"]["far"] = 60000;
  EXPECT_EQ(load_error(json), "");
  json["model"]["vocab"]["far"] = 4000000;
  EXPECT_THAT(load_error(json), HasSubstr("'far' has the id 4000000, expected 0 to"));
}

TEST(TokenizerJson, WhatStandsAroundATextAreTokens) {
  Json json = small_tokenizer();
  const auto around = [&](Json ids) {
    json["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "s"}}}}, {{"Sequence", {{"id", "A"}}}}}},
        {"special_tokens", {{"s", {{"ids", std::move(ids)}}}}}};
    return load_error(json);
  };
  EXPECT_EQ(around({1}), "");
  EXPECT_THAT(around({9}), HasSubstr("is 9, which is no token's id"));
  EXPECT_THAT(around(std::vector<int>(2000, 1)), HasSubstr("more than 1024 tokens"));
}

TEST(TokenizerJson, RefusesWhatWouldGrowWithoutBounds) {
  Json json = small_tokenizer();
  json["added_tokens"] = {added_token(8, std::string(600, 'a').c_str())};
  EXPECT_THAT(load_error(json), HasSubstr("has 600 bytes; at most 512"));

  json = small_tokenizer();
  json["decoder"] = {{"type", "Replace"}, {"pattern", {{"String", "b"}}}, {"content", "long text"}};
  json["model"]["vocab"][std::string(100, 'b')] = 8;
  EXPECT_THAT(load_error(json), HasSubstr("the decoder makes a text of 900 bytes"));
  json["decoder"]["content"] = std::string(100, ' ');
  EXPECT_THAT(load_error(json), HasSubstr("content has 100 bytes; at most 64"));

  json = small_tokenizer();
  json["normalizer"] = {{"type", "Sequence"},
                        {"normalizers", std::vector<Json>(33, {{"type", "NFC"}})}};
  EXPECT_THAT(load_error(json), HasSubstr("has 33 steps; at most 32"));

  json = small_tokenizer();
  json["normalizer"] = {
      {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(1000, 'a')}};
  const auto tokenizer = load(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const auto ids = tokenizer->encode(std::string(100, 'a'), false);
  ASSERT_FALSE(ids.ok());
  EXPECT_THAT(ids.error().message, HasSubstr("makes a text longer than the"));
}

// Whatever a file says, loading ends in a tokenizer or an error, and encoding too.
TEST(TokenizerJson, DamagedFilesNeverCrash) {
  std::vector<std::string> seeds = {small_tokenizer().dump()};
  for (const char* name : {"/models/tiny/tokenizer.json", "/tests/golden/tokenizer/llama2.json"}) {
    std::ifstream file(fmt::format("{}{}", FOURFOLD_SOURCE_DIR, name));
    Json json = Json::parse(file);
    // A vocabulary of bytes alone leaves the other parts to be hit.
    json["model"]["merges"] = Json::array();
    for (auto it = json["model"]["vocab"].begin(); it != json["model"]["vocab"].end();) {
      it = it.key().size() > 6 ? json["model"]["vocab"].erase(it) : std::next(it);
    }
    seeds.push_back(json.dump());
  }
  std::mt19937 random(7);
  const auto below = [&](size_t n) { return static_cast<size_t>(random()) % n; };
  const std::vector<std::string> tokens = {"null", "-1",  "\"\"",      "[]",
                                           "{}",   "1e9", "\"Regex\"", "true"};
  int loaded = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string json = seeds[below(seeds.size())];
    for (size_t edits = 1 + below(3); edits > 0; --edits) {
      const size_t at = below(json.size());
      switch (below(4)) {
        case 0:
          json[at] = static_cast<char>(random());
          break;
        case 1:
          json.erase(at, 1 + below(20));
          break;
        case 2:
          json.insert(at, tokens[below(tokens.size())]);
          break;
        default:
          json.insert(at, json.substr(below(json.size()), below(100)));
      }
      if (json.empty()) json.push_back('{');
    }
    const auto tokenizer = tokenizer_from_json(json, "");
    if (!tokenizer.ok()) {
      EXPECT_NE(tokenizer.error().message, "");
      continue;
    }
    ++loaded;
    const auto ids = tokenizer->encode("a <s>\n12\xFF é", true);
    if (ids.ok()) {
      EXPECT_EQ(valid_utf8(tokenizer->decode(*ids, false)), tokenizer->decode(*ids, false));
    }
  }
  EXPECT_GT(loaded, 100);
}

}  // namespace
}  // namespace fourfold::text
