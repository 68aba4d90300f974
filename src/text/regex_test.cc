#include "text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/utf8.h"

namespace fourfold::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  const auto regex = Regex::compile(pattern);
  if (!regex.ok()) return {regex.error().message};
  std::vector<Span> spans;
  const auto status = regex->find_all(text, SearchBudget(std::ssize(text)), &spans);
  if (!status.ok()) return {status.error().message};
  std::vector<std::string> out;
  for (const Span& span : spans) {
    out.emplace_back(
        text.substr(static_cast<size_t>(span.begin), static_cast<size_t>(span.end - span.begin)));
  }
  return out;
}

std::string one(char32_t code_point) {
  std::string out;
  append_code_point(code_point, &out);
  return out;
}

TEST(Regex, ReadsOniguramaNotPcre2WhereTheyDiffer) {
  EXPECT_TRUE(matches(R"(\s)", one(0x180E)).empty());  // PCRE2: white space.
  EXPECT_TRUE(matches(R"(\v)", "\n").empty());         // PCRE2: any vertical space.
  EXPECT_EQ(matches(R"(\s)", one(0x85)).size(), 1u);
  EXPECT_TRUE(matches(R"(\p{Han})", one(0x3001)).empty());  // PCRE2: script extensions.
  EXPECT_EQ(matches(R"(\w)", one(0x0301)).size(), 1u);      // PCRE2: no word character.
  EXPECT_EQ(matches(R"(\w)", "²").size(), 1u);
  EXPECT_TRUE(matches(R"(\w)", "②").empty());  // PCRE2: a word character.
  EXPECT_THAT(matches("^b$", "a\nb\nc"), ElementsAre("b"));
  EXPECT_THAT(matches(R"([\u00e9\x41]+)", "Aéa"), ElementsAre("Aé"));
}

TEST(Regex, KnowsCodePointsUpToUnicode16) {
  EXPECT_EQ(matches(R"(\p{L})", one(0x31350)).size(), 1u);
  EXPECT_EQ(matches(R"([^\s\p{L}])", one(0x31350)).size(), 0u);
  EXPECT_EQ(matches(R"(\P{L})", one(0x31350)).size(), 0u);
  EXPECT_EQ(matches(R"(\p{^L})", one(0x31350)).size(), 0u);
  EXPECT_EQ(matches(R"(\P{^L})", one(0x31350)).size(), 1u);
  EXPECT_EQ(matches(R"(\d)", one(0x10D40)).size(), 1u);
  EXPECT_EQ(matches(R"(\D)", one(0x10D40)).size(), 0u);
  EXPECT_EQ(matches(R"(\p{Lu})", one(0x1C89)).size(), 1u);
  EXPECT_EQ(matches(R"(\p{Han})", one(0x2EBF0)).size(), 1u);
}

TEST(Regex, RefusesWhatItCannotGiveTheSameMeaning) {
  for (const char* pattern : {R"(\h)",      R"(\b)",       R"(\R)",
                              R"(\X)",      R"(\1)",       R"(\k<a>)",
                              R"([\W])",    R"([\P{L}])",  "[a[b]]",
                              "[a&&b]",     "[[:alpha:]]", "[]a]",
                              "a{,3}",      "a{2}?",       "a{1,2}+",
                              "(?<name>a)", "a(?i)b",      "(?x)a",
                              "(?m:a)",     "(*UTF)a",     R"(\p{Alphabetic})",
                              R"(\p{C})",   R"(\p{L Lu})", R"(\pL)",
                              R"(\xC3)",    R"(\u12)",     "[a",
                              "\\"}) {
    const auto regex = Regex::compile(pattern);
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_THAT(regex.error().message, HasSubstr("is not supported")) << pattern;
  }
  for (const char* pattern : {"", "(a", "a)", "a**", "(?<=a+)b", "[z-a]"}) {
    EXPECT_FALSE(Regex::compile(pattern).ok()) << pattern;
  }
}

TEST(Regex, TakesBracesThatOpenNoIntervalAsTheyAre) {
  EXPECT_THAT(matches("a{b}", "a{b}"), ElementsAre("a{b}"));
  EXPECT_THAT(matches("a{", "a{"), ElementsAre("a{"));
  EXPECT_THAT(matches("a{2,3}?", "aaaa"), ElementsAre("aa", "aa"));
}

TEST(Regex, AnEmptyMatchDoesNotFollowAMatchDirectly) {
  EXPECT_THAT(matches(R"(\d*)", "a12é"), ElementsAre("", "12", ""));
  EXPECT_THAT(matches(R"(\d*)", ""), ElementsAre(""));
}

TEST(Regex, ALiteralHasNoSyntax) {
  const auto regex = Regex::literal("a.*é");
  ASSERT_TRUE(regex.ok());
  std::vector<Span> spans;
  ASSERT_TRUE(regex->find_all("aba.*é", SearchBudget(0), &spans).ok());
  EXPECT_THAT(spans, ElementsAre(Span{2, 7}));
  EXPECT_FALSE(Regex::literal("").ok());
}

TEST(Regex, AGroupMayRepeatOverAMegabyte) {
  const std::string text(size_t{1} << 20, 'a');
  EXPECT_THAT(matches("(?:a|b)+c?", text), ElementsAre(text));
}

TEST(Regex, AHopelessSearchEndsInAnError) {
  const std::string text(64, 'a');
  EXPECT_THAT(matches("(a|aa)+(a|aa)+(a|aa)+(a|aa)+[bc]", text),
              ElementsAre(HasSubstr("match limit exceeded")));
}

TEST(Regex, ASearchThatIsNotLinearEndsInAnError) {
  // Each character is a match of its own, found by a look at all that follow: no match is long.
  const std::string text(60000, 'a');
  EXPECT_THAT(matches("a(?!a*b)", text), ElementsAre(HasSubstr("takes more than")));
}

TEST(Regex, FindsMatchesFarApart) {
  const std::string text = std::string(1000, 'a') + "é" + std::string(1000, 'a') + "b";
  EXPECT_THAT(matches("[éb]", text), ElementsAre("é", "b"));
  EXPECT_THAT(matches("b", text), ElementsAre("b"));
  EXPECT_THAT(matches(R"(\z)", text), ElementsAre(""));
}

}  // namespace
}  // namespace fourfold::text
