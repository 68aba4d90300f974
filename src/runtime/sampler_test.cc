#include "runtime/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "base/philox.h"

namespace fourfold::runtime {
namespace {

using engine::SampledToken;
using engine::SamplingParams;
using engine::SlotStart;
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

/// Of a sequence without tokens so far.
SampledToken sample(std::span<const float> logits, const SamplingParams& params, int32_t position) {
  SlotStart start;
  start.sampling = params;
  return Sampler(std::move(start)).sample(logits, position);
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
  EXPECT_THAT(tokens, testing::ElementsAre(650, 287, 647, 721, 327, 8));
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

/// tools/make_sampling_golden.py.
struct GoldenCase {
  std::vector<float> logits;
  std::vector<TokenId> output;
  SlotStart start;
  TokenId greedy = 0;
  std::vector<double> probabilities;
};

std::vector<GoldenCase> golden_cases() {
  std::ifstream file(FOURFOLD_SOURCE_DIR "/tests/golden/sampling.json");
  std::vector<GoldenCase> out;
  for (const nlohmann::json& json : nlohmann::json::parse(file)) {
    const nlohmann::json& params = json.at("params");
    GoldenCase c;
    c.logits = json.at("logits").get<std::vector<float>>();
    c.output = json.at("output").get<std::vector<TokenId>>();
    c.greedy = json.at("greedy");
    c.probabilities = json.at("probabilities").get<std::vector<double>>();
    c.start.history = json.at("prompt").get<std::vector<TokenId>>();
    c.start.prompt_tokens = static_cast<int32_t>(c.start.history.size());
    c.start.stop_tokens = json.at("stop_tokens").get<std::vector<TokenId>>();
    c.start.sampling = {.temperature = params.at("temperature"),
                        .top_k = params.at("top_k"),
                        .top_p = params.at("top_p"),
                        .min_p = params.at("min_p"),
                        .repetition_penalty = params.at("repetition_penalty"),
                        .presence_penalty = params.at("presence_penalty"),
                        .frequency_penalty = params.at("frequency_penalty"),
                        .min_tokens = params.at("min_tokens")};
    for (const nlohmann::json& entry : params.at("logit_bias")) {
      c.start.sampling.logit_bias.push_back({entry.at(0), entry.at(1)});
    }
    out.push_back(std::move(c));
  }
  return out;
}

/// The sampler of a case that was preempted after `restarted_at` tokens of the output and has
/// sampled the others itself.
Sampler sampler_of(const GoldenCase& golden, uint64_t seed, size_t restarted_at) {
  SlotStart start = golden.start;
  start.sampling.seed = seed;
  const auto middle = golden.output.begin() + static_cast<std::ptrdiff_t>(restarted_at);
  start.history.insert(start.history.end(), golden.output.begin(), middle);
  Sampler sampler(std::move(start));
  for (size_t i = restarted_at; i < golden.output.size(); ++i) {
    std::vector<float> certain(golden.logits.size(), -kInfinity);
    certain[static_cast<size_t>(golden.output[i])] = kInfinity;
    sampler.sample(certain, golden.start.prompt_tokens + static_cast<int32_t>(i));
  }
  return sampler;
}

TEST(Sampler, DrawsFromTheDistributionOfTransformersAndVllm) {
  const std::vector<GoldenCase> cases = golden_cases();
  ASSERT_GE(cases.size(), 40U);
  int64_t compared = 0;
  for (size_t c = 0; c < cases.size(); ++c) {
    SCOPED_TRACE("case " + std::to_string(c));
    const GoldenCase& golden = cases[c];
    const std::vector<double>& p = golden.probabilities;
    const int32_t position =
        golden.start.prompt_tokens + static_cast<int32_t>(golden.output.size());
    for (uint64_t seed = 0; seed < 100; ++seed) {
      const double u =
          base::uniform_unit(base::philox(seed, {0, static_cast<uint32_t>(position), 0, 0})[0]);
      double reached = 0;
      double distance = 1;  // of u to a step of the cumulative distribution
      size_t expected = 0;
      for (size_t token = 0; token < p.size(); ++token) {
        if (p[token] == 0) continue;
        if (reached <= u) expected = token;
        distance = std::min(distance, std::abs(reached - u));
        reached += p[token];
      }
      if (distance < 1e-5) continue;
      ++compared;
      Sampler sampler = sampler_of(golden, seed, seed % (golden.output.size() + 1));
      EXPECT_EQ(sampler.sample(golden.logits, position).token, static_cast<TokenId>(expected));
    }
    GoldenCase greedy = golden;
    greedy.start.sampling.temperature = 0;
    EXPECT_EQ(sampler_of(greedy, 0, 0).sample(golden.logits, position).token, golden.greedy);
  }
  EXPECT_GT(compared, 95 * std::ssize(cases));
}

TEST(Sampler, EveryChoiceHasItsOwnDraws) {
  const std::vector<float> logits = random_logits(2000, 5);
  int different = 0;
  for (int32_t position = 0; position < 100; ++position) {
    const float u =
        base::uniform_unit(base::philox(4, {3, static_cast<uint32_t>(position), 0, 0})[0]);
    const std::vector<float> flat(1000, 1.0F);
    EXPECT_EQ(sample(flat, {.seed = 4, .choice = 3}, position).token,
              static_cast<TokenId>(u * 1000.0));
    different += sample(logits, {.seed = 4, .choice = 0}, position).token !=
                         sample(logits, {.seed = 4, .choice = 1}, position).token
                     ? 1
                     : 0;
  }
  EXPECT_GT(different, 90);
}

TEST(Sampler, MasksStopTokensUntilTheOutputIsLongEnough) {
  SlotStart start;
  start.sampling = {.temperature = 0, .min_tokens = 2};
  start.prompt_tokens = 5;
  start.stop_tokens = {1, 2};
  Sampler sampler(start);
  const std::vector<float> logits = {0, 3, 2, 1};
  EXPECT_EQ(sampler.sample(logits, 5).token, 3);
  EXPECT_EQ(sampler.sample(logits, 6).token, 3);
  EXPECT_EQ(sampler.sample(logits, 7).token, 1);
}

TEST(Sampler, IgnoresBiasesAndHistoryOutsideTheVocabulary) {
  SlotStart start;
  start.sampling = {.temperature = 0,
                    .repetition_penalty = 2,
                    .logit_bias = {{1, 1}, {4, 50}, {1 << 30, 50}},
                    .min_tokens = 9};
  start.prompt_tokens = 2;
  start.history = {0, -7, 4, 1 << 30};
  start.stop_tokens = {-1, 4};
  EXPECT_EQ(Sampler(start).sample(std::vector<float>{3, 1, 0, 1}, 4).token, 1) << "1.5, 2, 0, 1";
}

TEST(Sampler, LogprobsAreOfTheLogitsBeforeBiasAndPenalties) {
  SlotStart start;
  start.sampling = {
      .temperature = 0, .presence_penalty = 2, .logit_bias = {{0, 100}}, .logprobs = 2};
  start.history = {1};
  const std::vector<float> logits = {0, 2, 1};
  const std::vector<double> p = softmax(logits, 1);
  const SampledToken sampled = Sampler(start).sample(logits, 1);
  EXPECT_EQ(sampled.token, 0);
  EXPECT_NEAR(sampled.logprob, std::log(p[0]), 1e-6);
  ASSERT_EQ(sampled.top.size(), 2U);
  EXPECT_EQ(sampled.top[0].token, 1);
  EXPECT_EQ(sampled.top[1].token, 2);
}

TEST(Sampler, MinPKeepsTokensByTheirShareOfTheLargest) {
  std::vector<float> logits;
  for (const float p : {0.1F, 0.5F, 0.05F, 0.3F, 0.05F}) logits.push_back(std::log(p));
  const auto kept = [&](const SamplingParams& params) {
    std::set<TokenId> tokens;
    for (const auto& [token, count] : draw_many(logits, params, 1000)) tokens.insert(token);
    return tokens;
  };
  EXPECT_EQ(kept({.min_p = 1}), (std::set<TokenId>{1}));
  EXPECT_EQ(kept({.min_p = 0.59F}), (std::set<TokenId>{1, 3}));
  EXPECT_EQ(kept({.min_p = 0.19F}), (std::set<TokenId>{0, 1, 3}));
  EXPECT_EQ(kept({.min_p = 0.09F}), (std::set<TokenId>{0, 1, 2, 3, 4}));
  EXPECT_EQ(kept({.top_k = 2, .min_p = 0.19F}), (std::set<TokenId>{1, 3}));
  // Of what min_p leaves over, 1 has 0.5 / 0.8.
  EXPECT_EQ(kept({.top_p = 0.6F, .min_p = 0.59F}), (std::set<TokenId>{1}));
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

// The rest share what probability there is, as if the others did not exist.
TEST(Sampler, DrawsAmongTheAllowedTokensByTheirProbabilities) {
  const std::vector<float> logits = random_logits(70, 3);
  std::vector<float> reduced = logits;
  text::TokenMask allowed(3);
  for (size_t i = 0; i < logits.size(); ++i) {
    if (i % 5 == 1) {
      allowed[i / 32] |= 1U << (i % 32);
    } else {
      reduced[i] = -kInfinity;
    }
  }
  for (const SamplingParams& params :
       {SamplingParams{}, SamplingParams{.temperature = 0}, SamplingParams{.top_k = 3},
        SamplingParams{.top_p = 0.5F}, SamplingParams{.min_p = 0.2F}}) {
    for (int32_t position = 0; position < 200; ++position) {
      SlotStart start;
      start.sampling = params;
      Sampler masked(start);
      EXPECT_EQ(masked.sample(logits, position, &allowed).token,
                sample(reduced, params, position).token);
    }
  }
}

TEST(Sampler, ChoosesAnAllowedTokenWhateverElseIsAskedFor) {
  const std::vector<float> logits = {5, -kInfinity, kNan, 3};
  SlotStart start;
  start.sampling = {.temperature = 0, .min_tokens = 5};
  start.stop_tokens = {2};
  const auto choose = [&](uint32_t allowed) {
    const text::TokenMask mask = {allowed};
    return Sampler(start).sample(logits, 0, &mask).token;
  };
  EXPECT_EQ(choose(0b0010), 1);
  EXPECT_EQ(choose(0b0100), 2);  // the stop token, where nothing else may come
  EXPECT_EQ(choose(0b1100), 3);
  start.sampling.logprobs = 1;
  const text::TokenMask mask = {0b1000};
  const SampledToken token = Sampler(start).sample(logits, 0, &mask);
  EXPECT_EQ(token.token, 3);
  EXPECT_EQ(token.top[0].token, 0);  // of the unmodified logits
  EXPECT_LT(token.logprob, -1);
}

}  // namespace
}  // namespace fourfold::runtime
