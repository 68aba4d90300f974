#include "text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> words(const std::string& json, const std::string& text,
                               bool at_text_start = true) {
  const Json document = Json::parse(json);
  const auto pre_tokenizer = PreTokenizer::create(JsonNode(document, "pre_tokenizer"));
  if (!pre_tokenizer.ok()) return {pre_tokenizer.error().message};
  Words cut{text, {{0, static_cast<int64_t>(text.size()), at_text_start}}};
  const auto status = pre_tokenizer->apply(SearchBudget(std::ssize(text)), &cut);
  if (!status.ok()) return {status.error().message};
  std::vector<std::string> out;
  for (const auto& range : cut.ranges) out.emplace_back(cut.at(range));
  return out;
}

std::string split(const char* behavior, bool invert = false) {
  return fmt::format(R"({{"type":"Split","pattern":{{"String":"-"}},"behavior":"{}","invert":{}}})",
                     behavior, invert);
}

TEST(PreTokenizer, TreatsDelimitersAsTold) {
  const std::string text = "the-final--countdown";
  EXPECT_THAT(words(split("Isolated"), text),
              ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(words(split("Removed"), text), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(words(split("MergedWithPrevious"), text),
              ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(words(split("MergedWithNext"), text),
              ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(words(split("Contiguous"), text),
              ElementsAre("the", "-", "final", "--", "countdown"));
  EXPECT_THAT(words(split("Removed", /*invert=*/true), text), ElementsAre("-", "-", "-"));
  EXPECT_THAT(words(split("Other"), text), ElementsAre(HasSubstr("behavior is 'Other'")));
}

TEST(PreTokenizer, ByteLevelCutsAsGpt2AndWritesBytesAsLetters) {
  EXPECT_THAT(words(R"({"type":"ByteLevel","add_prefix_space":false})", "I'll é  1\n"),
              ElementsAre("I", "'ll", "ĠÃ©", "Ġ", "Ġ1", "Ċ"));
  EXPECT_THAT(words(R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":false})", "a b"),
              ElementsAre("ĠaĠb"));
}

TEST(PreTokenizer, MetaspacePrependsBySchemeAndPlace) {
  const auto meta = [](const char* scheme) {
    return fmt::format(R"({{"type":"Metaspace","replacement":"▁","prepend_scheme":"{}"}})", scheme);
  };
  EXPECT_THAT(words(meta("always"), "a b", false), ElementsAre("▁a", "▁b"));
  EXPECT_THAT(words(meta("first"), "a b", false), ElementsAre("a", "▁b"));
  EXPECT_THAT(words(meta("first"), "a b", true), ElementsAre("▁a", "▁b"));
  EXPECT_THAT(words(meta("never"), " a", true), ElementsAre("▁a"));
  EXPECT_THAT(words(meta("first"), " a", true), ElementsAre("▁a"));
  EXPECT_THAT(words(meta("other"), "a"), ElementsAre(HasSubstr("'other'")));
}

TEST(PreTokenizer, OnlyTheFirstWordOfASequenceIsAtTheStart) {
  const std::string json = R"({"type":"Sequence","pretokenizers":[)" + split("Removed") +
                           R"(,{"type":"Metaspace","replacement":"_","prepend_scheme":"first"}]})";
  EXPECT_THAT(words(json, "a-b"), ElementsAre("_a", "b"));
  EXPECT_THAT(words(json, "-b"), ElementsAre("b"));
}

TEST(PreTokenizer, KnowsTheSimpleClasses) {
  EXPECT_THAT(words(R"({"type":"Digits","individual_digits":true})", "a12Ⅷ"),
              ElementsAre("a", "1", "2", "Ⅷ"));
  EXPECT_THAT(words(R"({"type":"Digits","individual_digits":false})", "a12b"),
              ElementsAre("a", "12", "b"));
  EXPECT_THAT(words(R"({"type":"Punctuation"})", "a,$«b"), ElementsAre("a", ",", "$", "«", "b"));
  EXPECT_THAT(words(R"({"type":"WhitespaceSplit"})", " a,\u3000b "), ElementsAre("a,", "b"));
  EXPECT_THAT(words(R"({"type":"Whitespace"})", "a_1,, é²\u200D"),
              ElementsAre("a_1", ",,", "é", "²", "\u200D"));
}

TEST(PreTokenizer, RefusesOtherTypesByName) {
  EXPECT_THAT(words(R"({"type":"UnicodeScripts"})", "a"),
              ElementsAre(HasSubstr("'UnicodeScripts'")));
  EXPECT_THAT(words(R"({"type":"Split","pattern":{},"behavior":"Isolated"})", "a"),
              ElementsAre(HasSubstr("pre_tokenizer/pattern")));
}

}  // namespace
}  // namespace fourfold::text
