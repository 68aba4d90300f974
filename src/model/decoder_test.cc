#include "model/decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "model/golden_test_support.h"

namespace fourfold::model {
namespace {

std::string model_of(const std::string& folder) {
  return folder == "tiny" ? "tiny" : kGolden + folder;
}

class GoldenTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  std::string folder() const { return std::get<0>(GetParam()); }
  std::string backend() const { return std::get<1>(GetParam()); }
};

TEST_P(GoldenTest, LogitsMatchTransformers) {
  const Golden golden(folder());
  ASSERT_GE(golden.prompts(), 2);
  for (int i = 0; i < golden.prompts(); ++i) {
    const std::vector<int32_t> prompt = golden.tokens("prompt", i);
    const std::vector<float> expected = golden.logits(i);
    OneSequence sequence(model_of(folder()), backend(), static_cast<int64_t>(prompt.size()));
    const std::vector<float> all = sequence.run(prompt);
    // Long prompts keep the logits of the last positions only.
    const std::span<const float> actual = std::span(all).last(expected.size());
    EXPECT_LE(nmse(actual, expected), backend() == "reference" ? 1e-9 : 1e-4) << "prompt " << i;
  }
}

/// On reference only: bf16 may flip a near tie, and its logits are compared above.
class GreedyTest : public testing::TestWithParam<std::string> {};

TEST_P(GreedyTest, TokensMatchTransformersFor64Steps) {
  const Golden golden(GetParam());
  for (int i = 0; i < golden.prompts(); ++i) {
    const std::vector<int32_t> prompt = golden.tokens("prompt", i);
    const std::vector<int32_t> expected = golden.tokens("greedy", i);
    ASSERT_EQ(expected.size(), 64U);
    OneSequence sequence(model_of(GetParam()), "reference",
                         static_cast<int64_t>(prompt.size() + expected.size()));
    std::vector<float> logits = sequence.run(prompt);
    std::vector<int32_t> actual;
    while (actual.size() < expected.size()) {
      actual.push_back(argmax(std::span(logits).last(static_cast<size_t>(sequence.vocab()))));
      logits = sequence.run({actual.back()});
    }
    EXPECT_EQ(actual, expected) << "prompt " << i;
  }
}

TEST(Gguf, LlamaWithItsInterleavedHeadsGivesTheAnswersOfTheSameSafetensors) {
  const Golden golden("llama2");
  for (int i = 0; i < golden.prompts(); ++i) {
    const std::vector<int32_t> prompt = golden.tokens("prompt", i);
    const std::vector<float> expected = golden.logits(i);
    OneSequence sequence(kGolden + "llama2-gguf/model.gguf", "reference",
                         static_cast<int64_t>(prompt.size()));
    const std::vector<float> all = sequence.run(prompt);
    EXPECT_LE(nmse(std::span(all).last(expected.size()), expected), 1e-9) << "prompt " << i;
  }
}

TEST(DummyWeights, DependOnTheSeedAloneAndKeepLogitsFinite) {
  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5, 9, 2, 6};
  const auto logits = [&](uint64_t seed) {
    return OneSequence(kGolden + "gemma3", "reference", 8, /*dummy=*/true, seed).run(prompt);
  };
  const std::vector<float> first = logits(1);
  EXPECT_EQ(logits(1), first);
  EXPECT_NE(logits(2), first);
  for (const float x : first) ASSERT_TRUE(std::isfinite(x));
  EXPECT_GT(nmse(std::vector<float>(first.size(), 0.0F), first), 0.9) << "all logits are zero";
}

const auto kFolders = testing::Values("llama2", "llama3", "mistral", "gemma3", "sharded", "tiny");

INSTANTIATE_TEST_SUITE_P(Families, GoldenTest,
                         testing::Combine(kFolders, testing::Values("reference", "cpu")),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" + std::get<1>(test.param);
                         });
INSTANTIATE_TEST_SUITE_P(Families, GreedyTest, kFolders,
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace fourfold::model
