#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/golden_for_test.h"

namespace fourfold::text {
namespace {

const std::string kSource = FOURFOLD_SOURCE_DIR;
const std::string kGolden = kSource + "/tests/golden/tokenizer";

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  CHECK(file.good(), "{} cannot be opened", path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void expect_golden(const std::string& name, const std::string& path) {
  const auto tokenizer = tokenizer_from_json(read_file(path), "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const TokenizerGolden golden = read_tokenizer_golden(kGolden, name);
  ASSERT_GE(golden.strings.size(), 10'000u);
  EXPECT_EQ(compare_with_golden(*tokenizer, golden), "");
}

TEST(TokenizerGolden, TinyAgreesWithTheTokenizersPackage) {
  expect_golden("tiny", kSource + "/models/tiny/tokenizer.json");
}

TEST(TokenizerGolden, Gpt2AgreesWithTheTokenizersPackage) {
  expect_golden("gpt2", kGolden + "/gpt2.json");
}

TEST(TokenizerGolden, Llama2AgreesWithTheTokenizersPackage) {
  expect_golden("llama2", kGolden + "/llama2.json");
}

TEST(TokenizerGolden, ADifferentTokenIsReported) {
  const auto tokenizer = tokenizer_from_json(read_file(kGolden + "/gpt2.json"), "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  TokenizerGolden golden = read_tokenizer_golden(kGolden, "gpt2");
  golden.answers[7].ids_hash ^= 1;
  EXPECT_THAT(compare_with_golden(*tokenizer, golden), testing::StartsWith("string 7 "));
}

}  // namespace
}  // namespace fourfold::text
