#include "text/normalizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::text {
namespace {

using testing::HasSubstr;

base::Result<std::string> normalize(const char* json, std::string text) {
  const Json document = Json::parse(json);
  FF_ASSIGN(const Normalizer normalizer, Normalizer::create(JsonNode(document, "normalizer")));
  FF_TRY(normalizer.apply(SearchBudget(std::ssize(text)), &text));
  return text;
}

std::string normalized(const char* json, std::string text) {
  const auto result = normalize(json, std::move(text));
  return result.ok() ? *result : "error: " + result.error().message;
}

TEST(Normalizer, MakesTheFourUnicodeForms) {
  const std::string text = "e\u0301\uFB01\u212B\uAC01\u1E9B\u0323";
  EXPECT_EQ(normalized(R"({"type":"NFC"})", text), "\u00E9\uFB01\u00C5\uAC01\u1E9B\u0323");
  EXPECT_EQ(normalized(R"({"type":"NFD"})", text),
            "e\u0301\uFB01A\u030A\u1100\u1161\u11A8\u017F\u0323\u0307");
  EXPECT_EQ(normalized(R"({"type":"NFKC"})", text), "\u00E9fi\u00C5\uAC01\u1E69");
  EXPECT_EQ(normalized(R"({"type":"NFKD"})", text),
            "e\u0301fiA\u030A\u1100\u1161\u11A8s\u0323\u0307");
}

TEST(Normalizer, DoesNotMoveMarksAcrossCodePointsTheReferenceDoesNotKnow) {
  // U+07FD (class 220) came with Unicode 11.
  EXPECT_EQ(normalized(R"({"type":"NFD"})", "a\u0301\u07FD\u0323"), "a\u0301\u07FD\u0323");
  EXPECT_EQ(normalized(R"({"type":"NFD"})", "a\u0301\u0323"), "a\u0323\u0301");
}

TEST(Normalizer, SortsAMegabyteOfMarksInTime) {
  std::string text = "a";
  while (text.size() < size_t{1} << 20) text += "\u0301\u0323";  // Class 230, class 220.
  const std::string sorted = normalized(R"({"type":"NFD"})", text);
  EXPECT_EQ(sorted.size(), text.size());
  EXPECT_EQ(sorted.substr(0, 5), "a\u0323\u0323");
}

TEST(Normalizer, LowersEachCharacter) {
  EXPECT_EQ(normalized(R"({"type":"Lowercase"})", "AÉΣİ"), "aéσi\u0307");
}

TEST(Normalizer, PrependsOnlyToText) {
  const char* llama = R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"_"},
      {"type":"Replace","pattern":{"String":" "},"content":"_"}]})";
  EXPECT_EQ(normalized(llama, "a b"), "_a_b");
  EXPECT_EQ(normalized(llama, ""), "");
}

TEST(Normalizer, ReplacesARegularExpression) {
  EXPECT_EQ(normalized(R"({"type":"Replace","pattern":{"Regex":"\\s+"},"content":"+"})", " a \n b"),
            "+a+b");
}

TEST(Normalizer, RefusesOtherTypesByName) {
  EXPECT_THAT(normalized(R"({"type":"Precompiled"})", "a"), HasSubstr("'Precompiled'"));
  EXPECT_THAT(normalized(R"({"type":"Sequence","normalizers":[{"type":"Nmt"}]})", "a"),
              HasSubstr("normalizer/normalizers/0 has the type 'Nmt'"));
  EXPECT_THAT(normalized(R"({"type":"Replace","pattern":{"Regex":"\\b"},"content":""})", "a"),
              HasSubstr("\\b"));
}

TEST(Normalizer, StopsATextThatGrowsWithoutBound) {
  // Each step makes the text 64 times as long.
  const std::string step =
      fmt::format(R"({{"type":"Replace","pattern":{{"String":"aaaaaaaa"}},"content":"{}"}})",
                  std::string(512, 'a'));
  std::string steps = step;
  for (int i = 0; i < 30; ++i) steps += "," + step;
  EXPECT_THAT(normalized((R"({"type":"Sequence","normalizers":[)" + steps + "]}").c_str(),
                         "aaaaaaaaaaaaaaaa"),
              HasSubstr("longer than the 65792 bytes"));
}

}  // namespace
}  // namespace fourfold::text
