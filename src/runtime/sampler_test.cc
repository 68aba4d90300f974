#include "runtime/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "base/philox.h"

namespace fourfold::runtime {
namespace {

using engine::SampledToken;
using engine::SamplingParams;
using engine::TokenId;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_logits(size_t count, uint64_t seed) {
  std::vector<float> logits(count);
  for (size_t i = 0; i < count; ++i) {
    logits[i] = 8 * base::uniform_unit(base::philox(seed, {static_cast<uint32_t>(i), 0, 0, 0})[0]);
  }
  return logits;
}

/// Tokens drawn at `draws` positions, with their counts.
std::map<TokenId, int> draw_many(const std::vector<float>& logits, const SamplingParams& params,
                                 int draws) {
  std::map<TokenId, int> counts;
  for (int32_t position = 0; position < draws; ++position) {
    ++counts[sample(logits, params, position).token];
  }
  return counts;
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p(logits.size());
  double total = 0;
  for (size_t i = 0; i < p.size(); ++i) total += p[i] = std::exp(logits[i] / temperature);
  for (double& value : p) value /= total;
  return p;
}

double chi_square(const std::map<TokenId, int>& counts, const std::vector<double>& p, int draws) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const auto found = counts.find(static_cast<TokenId>(i));
    const double seen = found == counts.end() ? 0 : found->second;
    sum += (seen - p[i] * draws) * (seen - p[i] * draws) / (p[i] * draws);
  }
  return sum;
}

TEST(Sampler, GreedyTakesTheLowestIdAmongTheLargest) {
  const SamplingParams greedy{.temperature = 0};
  EXPECT_EQ(sample(std::vector<float>{1, 3, 2, 3}, greedy, 0).token, 1);
  EXPECT_EQ(sample(std::vector<float>{-0.0F, 0.0F}, greedy, 0).token, 0);
  EXPECT_EQ(sample(std::vector<float>{-5}, greedy, 0).token, 0);
}

TEST(Sampler, TopOneIsGreedyAtAnyTemperature) {
  const std::vector<float> logits = random_logits(500, 3);
  const TokenId best = sample(logits, {.temperature = 0}, 0).token;
  for (int32_t position = 0; position < 50; ++position) {
    EXPECT_EQ(sample(logits, {.temperature = 5, .top_k = 1}, position).token, best);
  }
}

TEST(Sampler, TopKDrawsEveryOneOfTheKLargestAndNoOther) {
  const std::vector<float> logits = {2, 5, 4, 5, 1, 4, 3};  // falling: 1 3 2 5 6 0 4
  std::set<TokenId> drawn;
  for (const auto& [token, count] : draw_many(logits, {.temperature = 4, .top_k = 3}, 500)) {
    drawn.insert(token);
  }
  EXPECT_EQ(drawn, (std::set<TokenId>{1, 2, 3}));  // 2, not its equal 5
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  std::vector<float> logits;
  for (const float p : {0.1F, 0.5F, 0.05F, 0.3F, 0.05F}) logits.push_back(std::log(p));
  const auto drawn = [&](float top_p, int32_t top_k) {
    std::set<TokenId> tokens;
    for (const auto& [token, count] :
         draw_many(logits, {.temperature = 1, .top_k = top_k, .top_p = top_p}, 1000)) {
      tokens.insert(token);
    }
    return tokens;
  };
  EXPECT_EQ(drawn(0.01F, 0), (std::set<TokenId>{1}));
  EXPECT_EQ(drawn(0.49F, 0), (std::set<TokenId>{1}));
  EXPECT_EQ(drawn(0.51F, 0), (std::set<TokenId>{1, 3}));
  EXPECT_EQ(drawn(0.85F, 0), (std::set<TokenId>{0, 1, 3}));
  EXPECT_EQ(drawn(0.92F, 0), (std::set<TokenId>{0, 1, 2, 3}));
  EXPECT_EQ(drawn(1.0F, 0), (std::set<TokenId>{0, 1, 2, 3, 4}));
  // Of the two largest alone, the first has 0.5 / 0.8.
  EXPECT_EQ(drawn(0.6F, 2), (std::set<TokenId>{1}));
}

TEST(Sampler, DependsOnSeedAndPositionAlone) {
  const std::vector<float> logits = random_logits(2000, 5);
  int by_seed = 0;
  int by_position = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const SamplingParams params{.temperature = 1, .seed = seed};
    const TokenId token = sample(logits, params, 7).token;
    EXPECT_EQ(sample(logits, params, 7).token, token);
    by_seed += sample(logits, {.temperature = 1, .seed = seed + 1000}, 7).token != token ? 1 : 0;
    by_position += sample(logits, params, 8).token != token ? 1 : 0;
  }
  EXPECT_GT(by_seed, 150);
  EXPECT_GT(by_position, 150);
}

TEST(Sampler, GivesTheTokensRecordedForASeed) {
  // Fixed for ever: a stream that goes on at another replica or in another release keeps its
  // tokens.
  const std::vector<float> logits = random_logits(1000, 11);
  std::vector<TokenId> tokens;
  for (int32_t position = 0; position < 6; ++position) {
    tokens.push_back(sample(logits, {.temperature = 0.8F, .seed = 42}, position).token);
  }
  EXPECT_THAT(tokens, testing::ElementsAre(617, 886, 950, 561, 327, 57));
}

TEST(Sampler, DrawsByTheSoftmaxOfTheLogits) {
  constexpr int kDraws = 20'000;
  const std::vector<float> logits = {0.0F, 1.0F, 0.5F, -1.0F, 2.0F, 0.0F, 1.5F, -0.5F};
  for (const float temperature : {0.5F, 1.0F, 3.0F}) {
    const auto counts = draw_many(logits, {.temperature = temperature, .seed = 9}, kDraws);
    // 24.3: one in a thousand at 7 degrees of freedom.
    EXPECT_LT(chi_square(counts, softmax(logits, temperature), kDraws), 24.3) << temperature;
    // It can fail: the same draws do not fit a slightly other distribution.
    EXPECT_GT(chi_square(counts, softmax(logits, temperature * 1.2), kDraws), 24.3) << temperature;
  }
}

TEST(Sampler, FindsItsTokenFarDownALongFlatRow) {
  // All equal: inverse CDF in the order of ids, far beyond the first sorted piece.
  const std::vector<float> logits(10'000, 1.0F);
  for (int32_t position = 0; position < 100; ++position) {
    const SamplingParams params{.temperature = 1, .seed = 4};
    const float u =
        base::uniform_unit(base::philox(4, {0, static_cast<uint32_t>(position), 0, 0})[0]);
    EXPECT_EQ(sample(logits, params, position).token, static_cast<TokenId>(u * 10'000.0));
  }
}

TEST(Sampler, LogprobsAreOfTheUnmodifiedLogits) {
  const std::vector<float> logits = {0.0F, 2.0F, 1.0F, 2.0F};
  const std::vector<double> p = softmax(logits, 1);
  const SampledToken sampled =
      sample(logits, {.temperature = 0.1F, .top_k = 1, .top_p = 0.5F, .logprobs = 3}, 0);
  EXPECT_EQ(sampled.token, 1);
  EXPECT_NEAR(sampled.logprob, std::log(p[1]), 1e-6);
  ASSERT_EQ(sampled.top.size(), 3U);
  EXPECT_EQ(sampled.top[0].token, 1);
  EXPECT_EQ(sampled.top[1].token, 3);
  EXPECT_EQ(sampled.top[2].token, 2);
  EXPECT_NEAR(sampled.top[2].logprob, std::log(p[2]), 1e-6);

  EXPECT_TRUE(sample(logits, {.temperature = 1, .logprobs = -1}, 0).top.empty());
  EXPECT_TRUE(sample(logits, {.temperature = 0, .logprobs = 0}, 0).top.empty());
  EXPECT_NEAR(sample(logits, {.temperature = 0, .logprobs = 0}, 0).logprob, std::log(p[1]), 1e-6);
  EXPECT_EQ(sample(logits, {.temperature = 0, .logprobs = 20}, 0).top.size(), 4U);
}

TEST(Sampler, SurvivesExtremeTemperatures) {
  const std::vector<float> logits = {100, -100, 99.999F, 3};
  EXPECT_EQ(draw_many(logits, {.temperature = 1e-30F}, 100), (std::map<TokenId, int>{{0, 100}}));
  EXPECT_EQ(draw_many(logits, {.temperature = std::numeric_limits<float>::denorm_min()}, 100),
            (std::map<TokenId, int>{{0, 100}}));
  EXPECT_EQ(draw_many(logits, {.temperature = 1e30F}, 1000).size(), 4U);
}

TEST(Sampler, HasADefinedAnswerForBrokenRows) {
  for (const float temperature : {0.0F, 1.0F}) {
    const SamplingParams params{.temperature = temperature, .logprobs = 2};
    // NaN is never drawn where there is anything else.
    for (int32_t position = 0; position < 50; ++position) {
      const SampledToken token =
          sample(std::vector<float>{kNan, 1, kNan, -kInfinity}, params, position);
      EXPECT_EQ(token.token, 1);
      EXPECT_EQ(token.logprob, 0.0F);
    }
    // Infinities share everything.
    for (const auto& [token, count] : draw_many({1, kInfinity, kNan, kInfinity}, params, 50)) {
      EXPECT_TRUE(token == 1 || token == 3) << token;
    }
    EXPECT_NEAR(sample(std::vector<float>{kInfinity, kInfinity}, params, 0).logprob, std::log(0.5),
                1e-6);
    // Nothing is likely: all are alike.
    const auto counts = draw_many({kNan, -kInfinity, kNan}, params, 100);
    EXPECT_EQ(counts.size(), temperature == 0 ? 1U : 3U);
    EXPECT_EQ(counts.begin()->first, 0);
  }
}

}  // namespace
}  // namespace fourfold::runtime
