#include "grammar/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "grammar/language_test.h"

namespace fourfold::grammar {
namespace {

using testing::HasSubstr;

bool matches(const std::string& pattern, std::string_view text) {
  const auto graph = regex_graph(pattern);
  EXPECT_TRUE(graph.ok()) << pattern << ": " << graph.error().message;
  return graph.ok() && accepts(*graph, text);
}

TEST(Regex, MatchesFromEndToEnd) {
  EXPECT_TRUE(matches("ab|cd", "cd"));
  EXPECT_FALSE(matches("ab|cd", "abd"));
  EXPECT_TRUE(matches("^(a|b)*c+?$", "abbac"));
  EXPECT_FALSE(matches("^(a|b)*c+$", "abba"));
  EXPECT_TRUE(matches("a{2,3}b{0}c{1,}", "aac"));
  EXPECT_FALSE(matches("a{2,3}", "aaaa"));
  EXPECT_TRUE(matches("(?:a?){3}", ""));
  EXPECT_TRUE(matches("(a*)*b", "aab"));
  EXPECT_TRUE(matches("(?P<x>a)(?<y>b)", "ab"));
  EXPECT_TRUE(matches("", ""));
}

TEST(Regex, KnowsClassesAndEscapes) {
  EXPECT_TRUE(matches(R"(\d+\.\d{2})", "12.50"));
  EXPECT_TRUE(matches(R"([^\d\s]+)", "äb€😀"));
  EXPECT_FALSE(matches(R"([^\d\s]+)", "ä1"));
  EXPECT_TRUE(matches("[a-cx-]+", "b-x"));
  EXPECT_TRUE(matches("[\\u00e4-\\u00fc]", "ö"));
  EXPECT_FALSE(matches("[\\u00e4-\\u00fc]", "ß"));
  EXPECT_TRUE(matches(R"(\x41\t\\\]\-)", "A\t\\]-"));
  EXPECT_TRUE(matches(R"([\]\\^]+)", "]\\^"));
  EXPECT_TRUE(matches(".", "\xF4\x8F\xBF\xBF"));
  EXPECT_FALSE(matches(".", "\n"));
  EXPECT_TRUE(matches(R"([\s\S])", "\n"));
  EXPECT_FALSE(matches(R"(\S)", "\xC2\xA0"));
}

// Every sequence of bytes that is no UTF-8 must be refused, at the byte that breaks it.
TEST(Regex, AcceptsNothingButUtf8) {
  for (const std::string_view bytes :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xED\xBF\xBF",
        "\xF0\x80\x80\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\x80",
        "\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\x98"}) {
    EXPECT_FALSE(matches("[\\s\\S]", bytes)) << bytes;
  }
  for (const std::string_view bytes :
       {"\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
        "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(matches("[\\s\\S]", bytes)) << bytes;
  }
}

TEST(Regex, NamesWhatItDoesNotSupport) {
  const std::pair<std::string, const char*> cases[] = {
      {"a(?=b)", "look-around"},
      {"(a)\\1", "the escape \\1"},
      {"\\bx", "the escape \\b"},
      {"\\p{L}", "the escape"},
      {"a++", "a quantifier behind"},
      {"*a", "without anything"},
      {"a{3", "broken"},
      {"a{x}", "no quantifier"},
      {"a{2,1}", "broken"},
      {"a{10001}", "10000"},
      {"[b-a]", "range"},
      {"[a", "without its ]"},
      {"(a", "without its )"},
      {"a)", "without its ("},
      {"[]", "empty class"},
      {"a^b", "a ^"},
      {"(a$|b)", "a $"},
      {"\\ud800", "surrogate"},
      {"(?i)a", "flag"},
      {"a\\", "at its end"},
  };
  for (const auto& [pattern, says] : cases) {
    const auto graph = regex_graph(pattern);
    ASSERT_FALSE(graph.ok()) << pattern;
    EXPECT_THAT(graph.error().message, HasSubstr(says)) << pattern;
  }
}

TEST(Regex, IsHeldToItsBudget) {
  for (const std::string pattern : {"((((a{1000}){1000}){1000}){1000})", "(a{10000}){10000}",
                                    "((){10000}){10000}", "([^\\d\\D]{10000}){10000}"}) {
    const auto graph = regex_graph(pattern);
    ASSERT_FALSE(graph.ok());
    EXPECT_THAT(graph.error().message, HasSubstr("too large"));
  }
  EXPECT_FALSE(regex_graph(std::string(20'000, 'a')).ok());
  EXPECT_FALSE(regex_graph(std::string(100, '(') + std::string(100, ')')).ok());
  EXPECT_THAT(regex_graph("[^\\d\\D]").error().message, HasSubstr("no text"));
}

TEST(Choice, IsOneOfTheTexts) {
  const auto graph = choice_graph({"yes", "yesterday", "no"});
  EXPECT_TRUE(accepts(*graph, "yes"));
  EXPECT_TRUE(accepts(*graph, "yesterday"));
  EXPECT_FALSE(accepts(*graph, "yest"));
  EXPECT_FALSE(accepts(*graph, "noyes"));
  EXPECT_FALSE(choice_graph({}).ok());
  EXPECT_FALSE(choice_graph({"a", ""}).ok());
}

}  // namespace
}  // namespace fourfold::grammar
