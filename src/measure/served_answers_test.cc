#include "measure/served_answers.h"

#include <gmock/gmock.h>

namespace fourfold::measure {
namespace {

using testing::HasSubstr;

struct Position {
  std::string token;
  std::map<std::string, double> top;  ///< with the token
};

ServedAnswer answer(const std::vector<Position>& positions) {
  ServedAnswer out;
  for (const Position& p : positions) {
    out.text += p.token;
    out.tokens.push_back(p.token);
    out.logprobs.push_back(p.top.at(p.token));
    out.top.push_back(p.top);
  }
  return out;
}

TEST(ServedAnswers, EqualOnesAreEqual) {
  const ServedAnswer a = answer({{"a", {{"a", -0.1}}}, {"b", {{"b", -0.2}}}});
  const ServedComparison c = compare_answers({a, a}, {a, a});
  EXPECT_EQ(c.equal_answers, 2);
  EXPECT_EQ(c.equal_share(), 1);
  EXPECT_EQ(c.equal_length_share(), 1);
  EXPECT_EQ(c.max_logprob_diff, 0);
  EXPECT_TRUE(c.differences.empty());
  EXPECT_EQ(compare_answers({}, {}).equal_share(), 1);
}

TEST(ServedAnswers, TellsANearTieFromAnotherAnswer) {
  // The noise is 0.02, so that ties are up to 0.04 apart.
  const std::vector<ServedAnswer> baseline = {
      answer({{"a", {{"a", -0.10}, {"x", -3}}}, {"b", {{"b", -0.70}, {"c", -0.73}}}}),
      answer({{"a", {{"a", -0.10}, {"x", -3}}}, {"b", {{"b", -0.10}, {"c", -2.5}}}}),
      answer({{"a", {{"a", -0.10}}}, {"b", {{"b", -0.10}}}})};
  const std::vector<ServedAnswer> answers = {
      answer({{"a", {{"a", -0.12}, {"x", -3}}}, {"c", {{"c", -0.72}, {"b", -0.72}}}}),
      answer({{"a", {{"a", -0.10}, {"x", -3}}}, {"c", {{"c", -2.5}, {"b", -0.10}}}}),
      answer({{"q", {{"q", -0.10}}}, {"b", {{"b", -0.10}}}})};
  const ServedComparison c = compare_answers(baseline, answers);
  ASSERT_EQ(c.differences.size(), 3u);
  EXPECT_NEAR(*c.max_logprob_diff, 0.02, 1e-12);
  EXPECT_EQ(c.differences[0].position, 1);
  EXPECT_NEAR(*c.differences[0].margin, 0.03, 1e-12);
  EXPECT_TRUE(c.differences[0].near_tie);
  EXPECT_NEAR(*c.differences[1].margin, 2.4, 1e-12);
  EXPECT_FALSE(c.differences[1].near_tie);
  EXPECT_EQ(c.differences[2].position, 0);
  EXPECT_FALSE(c.differences[2].margin) << "not among the baseline's most likely";
  EXPECT_FALSE(c.differences[2].near_tie);
  EXPECT_EQ(c.near_ties(), 1);
  EXPECT_EQ(c.equal_length, 2);
  EXPECT_EQ(c.length, 6);
  EXPECT_THAT(to_text(c), HasSubstr("0 of 3 answers equal (33.3 % of the tokens"));
  EXPECT_THAT(to_text(c), HasSubstr("request 0 differs at token 1: \"b\" and \"c\", 0.03 nats"));
}

TEST(ServedAnswers, OneThatEndsEarlierDiffersThere) {
  const ServedAnswer whole = answer({{"a", {{"a", -0.1}}}, {"b", {{"b", -0.2}}}});
  const ServedAnswer part = answer({{"a", {{"a", -0.1}}}});
  const ServedComparison shorter = compare_answers({whole}, {part});
  ASSERT_EQ(shorter.differences.size(), 1u);
  EXPECT_EQ(shorter.differences[0].position, 1);
  EXPECT_EQ(shorter.differences[0].other, "");
  EXPECT_EQ(compare_answers({part}, {whole}).differences[0].baseline, "");
  EXPECT_THAT(to_text(shorter), HasSubstr("\"b\" and the end"));
}

TEST(ServedAnswers, ComparesTextsWhereOneSideHasNoTokens) {
  ServedAnswer text;
  text.text = "one two";
  ServedAnswer other;
  other.text = "one too";
  const ServedComparison c = compare_answers({text}, {other});
  EXPECT_EQ(c.unit, ServedComparison::Unit::kBytes);
  ASSERT_EQ(c.differences.size(), 1u);
  EXPECT_EQ(c.differences[0].position, 5);
  EXPECT_FALSE(c.differences[0].margin);
  EXPECT_FALSE(c.max_logprob_diff);
  EXPECT_THAT(to_text(c), HasSubstr("differs at byte 5"));
  EXPECT_EQ(compare_answers({answer({{"a", {{"a", -0.1}}}})}, {text}).unit,
            ServedComparison::Unit::kBytes);
}

}  // namespace
}  // namespace fourfold::measure
