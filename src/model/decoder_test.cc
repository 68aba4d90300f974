#include "model/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "model/golden_test_support.h"

namespace fourfold::model {
namespace {

std::string model_of(const std::string& folder) {
  return folder == "tiny" ? "tiny" : kGolden + folder;
}

/// Router scores nearer to each other than this may change places in bf16.
constexpr float kClearGap = 1e-2F;

/// Without the logits of prompt tokens whose experts bf16 may choose otherwise. `logits` are those
/// of the last tokens.
std::vector<float> clear_rows(std::span<const float> logits, std::span<const float> gaps,
                              int64_t vocab) {
  const auto width = static_cast<size_t>(vocab);
  gaps = gaps.last(logits.size() / width);
  std::vector<float> out;
  for (size_t row = 0; row < gaps.size(); ++row) {
    const std::span<const float> own = logits.subspan(row * width, width);
    if (gaps[row] >= kClearGap) out.insert(out.end(), own.begin(), own.end());
  }
  return out;
}

class GoldenTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  std::string folder() const { return std::get<0>(GetParam()); }
  std::string backend() const { return std::get<1>(GetParam()); }
};

TEST_P(GoldenTest, LogitsMatchTransformers) {
  const Golden golden(folder());
  ASSERT_GE(golden.prompts(), 2);
  std::vector<float> gaps;
  for (int i = 0; i < golden.prompts(); ++i) {
    const std::vector<int32_t> prompt = golden.tokens("prompt", i);
    std::vector<float> expected = golden.logits(i);
    OneSequence sequence(model_of(folder()), backend(), static_cast<int64_t>(prompt.size()));
    std::vector<float> actual = sequence.run(prompt);
    // Long prompts keep the logits of the last positions only.
    actual.erase(actual.begin(), actual.end() - std::ssize(expected));
    if (golden.has_gaps() && backend() != "reference") {
      const std::vector<float> own = golden.prompt_gaps(i);
      actual = clear_rows(actual, own, sequence.vocab());
      expected = clear_rows(expected, own, sequence.vocab());
      gaps.insert(gaps.end(), own.begin(), own.end());
    }
    EXPECT_LE(nmse(actual, expected), backend() == "reference" ? 1e-9 : 1e-4) << "prompt " << i;
  }
  const auto unclear =
      std::count_if(gaps.begin(), gaps.end(), [](float gap) { return gap < kClearGap; });
  EXPECT_LE(unclear, std::ssize(gaps) / 50) << "tokens left out";
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

class GgufTest : public testing::TestWithParam<std::string> {};

TEST_P(GgufTest, GivesTheAnswersOfTheSameSafetensors) {
  const Golden golden(GetParam());
  for (int i = 0; i < golden.prompts(); ++i) {
    const std::vector<int32_t> prompt = golden.tokens("prompt", i);
    const std::vector<float> expected = golden.logits(i);
    OneSequence sequence(kGolden + GetParam() + "-gguf/model.gguf", "reference",
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

const auto kFolders = testing::Values("llama2", "llama3", "mistral", "gemma3", "sharded", "tiny",
                                      "mixtral", "qwen2-moe", "qwen3-moe", "deepseek-moe", "olmoe");

/// The name of a folder or a backend as a test's.
std::string test_name(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenTest,
                         testing::Combine(kFolders,
                                          testing::ValuesIn(golden_backends_in_both_numerics())),
                         [](const auto& test) {
                           return test_name(std::get<0>(test.param)) + "_" +
                                  test_name(std::get<1>(test.param));
                         });
INSTANTIATE_TEST_SUITE_P(Families, GreedyTest, kFolders,
                         [](const auto& test) { return test_name(test.param); });
// Heads are interleaved in all of them; the last two stack their experts.
INSTANTIATE_TEST_SUITE_P(Families, GgufTest, testing::Values("llama2", "mixtral", "deepseek-moe"),
                         [](const auto& test) { return test_name(test.param); });

}  // namespace
}  // namespace fourfold::model
