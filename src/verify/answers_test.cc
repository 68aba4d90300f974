#include "verify/answers.h"

#include <gtest/gtest.h>

namespace fourfold::verify {
namespace {

/// Two layers at positions 0 and 1, logits at position 1, one token.
std::vector<RequestAnswer> one_answer() {
  RequestAnswer answer;
  answer.tokens = {7};
  for (const int32_t position : {0, 1}) {
    for (const int32_t layer : {kEmbeddingLayer, 0, 1}) {
      answer.hashes[{position, layer}] = static_cast<uint64_t>(100 * position + layer + 2);
    }
  }
  answer.hashes[{1, kLogitsLayer}] = 55;
  return {answer};
}

TEST(Answers, EqualRunsAreEqualAndEverythingIsCompared) {
  const AnswerVerdict verdict = compare(one_answer(), one_answer());
  EXPECT_TRUE(verdict.equal);
  EXPECT_EQ(verdict.compared_hashes, 7);
  EXPECT_EQ(verdict.missing_hashes, 0);
  EXPECT_EQ(verdict.equal_token_share, 1.0);
}

TEST(Answers, TheFirstDifferenceIsTheEarliestPositionThenTheLowestLayer) {
  std::vector<RequestAnswer> other = one_answer();
  other[0].hashes[{1, 0}] = 0;
  other[0].hashes[{1, 1}] = 0;
  other[0].hashes[{0, 1}] = 0;
  const AnswerVerdict verdict = compare(one_answer(), other);
  EXPECT_FALSE(verdict.equal);
  EXPECT_EQ(verdict.first_difference, (Difference{.request = 0, .position = 0, .layer = 1}));
  EXPECT_EQ(verdict.first_difference->describe(), "request 0, position 0, layer 1");
}

TEST(Answers, LogitsThatDifferOrAreMissingAreADifference) {
  const Difference logits{.request = 0, .position = 1, .layer = kLogitsLayer};
  std::vector<RequestAnswer> other = one_answer();
  other[0].hashes[{1, kLogitsLayer}] = 56;
  EXPECT_EQ(compare(one_answer(), other).first_difference, logits);
  other[0].hashes.erase({1, kLogitsLayer});
  const AnswerVerdict missing = compare(one_answer(), other);
  EXPECT_EQ(missing.first_difference, logits);
  EXPECT_EQ(missing.missing_hashes, 1);
}

TEST(Answers, ATokenThatDiffersUnderEqualLogitsIsADifference) {
  std::vector<RequestAnswer> other = one_answer();
  other[0].tokens = {8};
  const AnswerVerdict verdict = compare(one_answer(), other);
  EXPECT_FALSE(verdict.equal);
  EXPECT_EQ(verdict.equal_token_share, 0.0);
  EXPECT_EQ(verdict.first_difference,
            (Difference{.request = 0, .position = 0, .layer = kTokenLayer}));
}

TEST(Answers, AComparisonOfNothingIsNotEqual) {
  EXPECT_FALSE(compare({RequestAnswer{}}, {RequestAnswer{}}).equal);
}

/// Two tokens' worth of one greedy request.
std::vector<RequestAnswer> greedy(engine::TokenId second, float logprob_of_7, float logprob_of_9) {
  RequestAnswer answer;
  answer.tokens = {5, second};
  answer.top = {{{5, -0.25F}, {6, -1.5F}}, {{7, logprob_of_7}, {9, logprob_of_9}}};
  return {answer};
}

TEST(Deviation, CountsTokensBeforeTheFirstDifferenceAndTheLargestChange) {
  const Deviation same = deviation(greedy(7, -1.0F, -2.0F), greedy(7, -1.125F, -2.0F));
  EXPECT_EQ(same.equal_token_share(), 1.0);
  EXPECT_EQ(same.compared_tokens, 2);
  EXPECT_EQ(same.max_logprob_diff, 0.125);
  EXPECT_EQ(same.differences, 0);
}

TEST(InvariantCost, IsTheBestInvariantRunOverTheBestFastOne) {
  EXPECT_EQ(invariant_cost({6.0, 5.0}, {4.0, 8.0}), 1.25);
  EXPECT_EQ(invariant_cost({}, {4.0}), std::nullopt);
  EXPECT_EQ(invariant_cost({6.0}, {}), std::nullopt);
}

TEST(Deviation, ADifferenceWithinTheNoiseIsANearTieAndOneBeyondItIsNot) {
  const Deviation tie = deviation(greedy(7, -1.0F, -1.125F), greedy(9, -1.125F, -1.0F));
  EXPECT_EQ(tie.equal_token_share(), 0.5);
  EXPECT_EQ(tie.differences, 1);
  EXPECT_EQ(tie.near_ties, 1);
  const Deviation wrong = deviation(greedy(7, -1.0F, -2.0F), greedy(9, -1.125F, -2.0F));
  EXPECT_EQ(wrong.differences, 1);
  EXPECT_EQ(wrong.near_ties, 0);
}

TEST(AnswerRecorder, PlacesRowsByTheirChunksAndNoticesAContradiction) {
  AnswerRecorder recorder(2);
  recorder.assign(engine::SequenceId(4), 1);
  engine::StepRecord record;
  record.chunks = {
      {.sequence = engine::SequenceId(9), .position = 0, .num_tokens = 2},
      {.sequence = engine::SequenceId(4), .position = 5, .num_tokens = 1, .sample = true}};
  record.output.trace = {{.layer = 3, .row = 2, .hash = 11}};
  record.output.sampled = {{{.token = 1, .logits_hash = 12}}};
  recorder.observe(record);
  record.output.trace[0].hash = 13;
  recorder.observe(record);
  const std::vector<RequestAnswer> answers = recorder.take();
  EXPECT_TRUE(answers[0].hashes.empty());
  EXPECT_EQ(answers[1].hashes.at({5, 3}), 11U);
  EXPECT_EQ(answers[1].hashes.at({5, kLogitsLayer}), 12U);
  EXPECT_EQ(answers[1].contradiction, (std::pair<int32_t, int32_t>(5, 3)));
}

}  // namespace
}  // namespace fourfold::verify
