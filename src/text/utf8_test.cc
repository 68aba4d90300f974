#include "text/utf8.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace fourfold::text {
namespace {

constexpr const char* kReplacement = "\uFFFD";

TEST(Utf8, ReplacesEachMaximalIllFormedPart) {
  // The expected counts are those of Python's bytes.decode("utf-8", "replace").
  struct Case {
    std::string_view bytes;
    int replacements;
  };
  using namespace std::literals;
  for (const auto& [bytes, replacements] : {
           Case{"\x80"sv, 1},
           Case{"\xBF\x80"sv, 2},
           Case{"\xC0\xAF"sv, 2},          // Overlong.
           Case{"\xE0\x80\xAF"sv, 3},      // Overlong.
           Case{"\xE2\x82"sv, 1},          // Cut short.
           Case{"\xED\xA0\x80"sv, 3},      // A surrogate.
           Case{"\xF0\x9F\x98"sv, 1},      // Cut short.
           Case{"\xF0\x80\x80\x80"sv, 4},  // Overlong.
           Case{"\xF4\x90\x80\x80"sv, 4},  // Beyond U+10FFFF.
           Case{"\xF5\xFF"sv, 2},
           Case{"\xE2\x82\xE2\x82"sv, 2},
           Case{"\xF1\x80\x80\xE1\x80\xC2"sv, 3},
       }) {
    std::string expected;
    for (int i = 0; i < replacements; ++i) expected += kReplacement;
    EXPECT_EQ(valid_utf8(bytes), expected);
    EXPECT_EQ(valid_utf8(fmt::format("a{}b", bytes)), fmt::format("a{}b", expected));
  }
}

TEST(Utf8, KeepsEveryCodePoint) {
  std::string all;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string one;
    append_code_point(c, &one);
    const Utf8Step step = utf8_step(one);
    ASSERT_EQ(step.kind, Utf8Step::Kind::kCharacter);
    ASSERT_EQ(step.code_point, c);
    ASSERT_EQ(step.length, static_cast<int>(one.size()));
    all += one;
  }
  EXPECT_EQ(valid_utf8(all), all);
}

TEST(Utf8, HoldsBackOnlyWhatMoreBytesCanComplete) {
  std::string out;
  EXPECT_EQ(append_valid_utf8("a\xF0\x9F\x98", /*more_follows=*/true, &out), 1);
  EXPECT_EQ(out, "a");
  out.clear();
  EXPECT_EQ(append_valid_utf8("a\xF0\x9F\x98z", /*more_follows=*/true, &out), 5);
  EXPECT_EQ(out, std::string("a") + kReplacement + "z");
  out.clear();
  EXPECT_EQ(append_valid_utf8("\xED\xA0", /*more_follows=*/true, &out), 2);  // A surrogate's start.
  EXPECT_EQ(out, std::string(kReplacement) + kReplacement);
}

TEST(Utf8, ReplacesFromLeftToRight) {
  EXPECT_EQ(replace_all("aaa", "aa", "b"), "ba");
  EXPECT_EQ(replace_all("a b ", " ", "\u2581"), "a\u2581b\u2581");
  EXPECT_EQ(replace_all("", "x", "y"), "");
}

}  // namespace
}  // namespace fourfold::text
