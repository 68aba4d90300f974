// A pretrained checkpoint from GGUF: Gemma 3 270M, Q4_K_M, against transformers and llama.cpp.
// tools/fetch_gemma.sh fetches the file; FOURFOLD_GEMMA_GGUF is its path.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "files/safetensors.h"
#include "model/golden_test_support.h"
#include "runtime/load_tokenizer.h"
#include "tests/support/answers.h"
#include "text/golden_for_test.h"

namespace fourfold::tests {
namespace {

const std::string kGolden = std::string(FOURFOLD_SOURCE_DIR) + "/tests/golden/gemma-270m/";

std::string gemma() {
  const char* path = std::getenv("FOURFOLD_GEMMA_GGUF");
  EXPECT_NE(path, nullptr) << "FOURFOLD_GEMMA_GGUF is not set: run tools/fetch_gemma.sh FOLDER";
  return path == nullptr ? "" : path;
}

class Golden {
 public:
  Golden() : store_(files::open_safetensors(kGolden + "golden.safetensors").value()) {}
  template <typename T>
  std::vector<T> get(const std::string& name) const {
    const files::TensorEntry* entry = store_.find(name);
    EXPECT_NE(entry, nullptr) << name;
    const auto bytes = store_.files()[entry->file].bytes().subspan(
        static_cast<size_t>(entry->offset), static_cast<size_t>(entry->bytes));
    std::vector<T> out(bytes.size() / sizeof(T));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }

 private:
  files::TensorStore store_;
};

/// Logits after the last of `tokens`, on one rank of `backend`.
std::vector<float> last_logits(const std::string& backend, const std::vector<int32_t>& tokens) {
  model::OneSequence sequence(gemma(), backend, std::ssize(tokens));
  return sequence.run(tokens, {static_cast<int32_t>(tokens.size()) - 1});
}

double nmse(const std::vector<float>& actual, const std::vector<float>& expected) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(double{actual[i]} - double{expected[i]}, 2);
    norm += std::pow(double{expected[i]}, 2);
  }
  return error / norm;
}

class GemmaLogits : public testing::TestWithParam<int> {};

TEST_P(GemmaLogits, OfTheReferenceMatchTransformersOnTheDequantisedWeights) {
  const Golden golden;
  const std::string i = std::to_string(GetParam());
  const std::vector<float> logits = last_logits("reference", golden.get<int32_t>("prompt_" + i));
  ASSERT_EQ(logits.size(), 262144U);
  std::vector<float> sampled;
  for (size_t id = 0; id < logits.size(); id += 64) sampled.push_back(logits[id]);
  EXPECT_LE(nmse(sampled, golden.get<float>("logits_" + i)), 1e-9);
  double sum = 0;
  const float largest = *std::max_element(logits.begin(), logits.end());
  for (const float x : logits) sum += std::exp(double{x} - double{largest});
  EXPECT_NEAR(std::log(sum) + double{largest}, golden.get<float>("logsumexp_" + i).at(0), 1e-3);
  EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(),
            golden.get<int32_t>("top_ids_" + i).at(0));
}

TEST_P(GemmaLogits, OfBackendsInBf16AreNear) {
  const Golden golden;
  const std::string i = std::to_string(GetParam());
  for (const std::string& backend : model::golden_backends()) {
    if (backend == "reference") continue;
    const std::vector<float> logits = last_logits(backend, golden.get<int32_t>("prompt_" + i));
    ASSERT_EQ(logits.size(), 262144U);
    std::vector<float> sampled;
    for (size_t id = 0; id < logits.size(); id += 64) sampled.push_back(logits[id]);
    // 1.02e-4 was seen of the third prompt with AMX.
    EXPECT_LE(nmse(sampled, golden.get<float>("logits_" + i)), backend == "cuda" ? 1e-4 : 1.5e-4)
        << backend;
  }
}

INSTANTIATE_TEST_SUITE_P(Prompts, GemmaLogits, testing::Values(0, 1, 2));

nlohmann::json llamacpp_runs() {
  std::ifstream file(kGolden + "llamacpp.json");
  return nlohmann::json::parse(file).at("runs");
}

runtime::ClusterConfig gemma_config(const mesh::ParallelConfig& scheme) {
  runtime::ClusterConfig config = thread_config(scheme);
  config.model = gemma();
  config.max_positions = 96;
  config.max_running = 5;
  return config;
}

/// Greedy requests for the five prompts of llamacpp.json, 48 tokens each.
std::vector<engine::Request> five_requests() {
  std::vector<engine::Request> out;
  for (const nlohmann::json& run : llamacpp_runs()) {
    engine::Request request;
    request.prompt = run.at("prompt_ids").get<std::vector<engine::TokenId>>();
    request.max_new_tokens = 48;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    out.push_back(std::move(request));
  }
  return out;
}

const std::vector<verify::RequestAnswer>& one_device() {
  static const std::vector<verify::RequestAnswer> kAnswers = [] {
    auto cluster = runtime::Cluster::start(gemma_config({}), [](const std::string&) {});
    return answers_of(*cluster.value(), five_requests(), {0, 1, 2, 3, 4}).requests;
  }();
  return kAnswers;
}

TEST(Gemma, GreedyTokensAreLlamaCppsWhereItIsSure) {
  const nlohmann::json runs = llamacpp_runs();
  ASSERT_EQ(runs.size(), 5U);
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto expected = runs[i].at("token_ids").get<std::vector<engine::TokenId>>();
    const size_t sure = runs[i].at("sure_tokens");
    ASSERT_GE(sure, 1U);
    const std::vector<engine::TokenId>& actual = one_device()[i].tokens;
    ASSERT_EQ(actual.size(), 48U);
    EXPECT_EQ(std::vector(actual.begin(), actual.begin() + static_cast<std::ptrdiff_t>(sure)),
              std::vector(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(sure)))
        << runs[i].at("prompt");
  }
}

class GemmaScheme : public testing::TestWithParam<std::string> {};

TEST_P(GemmaScheme, IsBitEqualToOneDevice) {
  auto cluster = runtime::Cluster::start(gemma_config(mesh::parse_scheme(GetParam()).value()),
                                         [](const std::string&) {});
  ASSERT_TRUE(cluster.ok()) << cluster.error().message;
  const Answers answers = answers_of(**cluster, five_requests(), {0, 1, 2, 3, 4});
  EXPECT_TRUE(verify::compare(one_device(), answers.requests).equal);
}

INSTANTIATE_TEST_SUITE_P(Schemes, GemmaScheme,
                         testing::Values("tp2", "tp4", "pp2", "tp2pp2", "dp2"),
                         [](const auto& test) { return test.param; });

TEST(Gemma, TokenizerGivesThePromptIdsOfLlamaCpp) {
  const auto source = model::open_model(gemma(), false, 0).value();
  const text::Tokenizer tokenizer = runtime::load_tokenizer(source).value();
  for (const nlohmann::json& run : llamacpp_runs()) {
    const auto ids = tokenizer.encode(run.at("prompt").get<std::string>(), /*add_special=*/true);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, run.at("prompt_ids").get<std::vector<int32_t>>());
  }
}

TEST(Gemma, TokenizerFindsTheMarksOfAChat) {
  const auto source = model::open_model(gemma(), false, 0).value();
  const text::Tokenizer tokenizer = runtime::load_tokenizer(source).value();
  const std::string text = "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n";
  const auto id = [&](const char* piece) { return tokenizer.token_to_id(piece).value(); };
  EXPECT_EQ(tokenizer.encode_marked(text).value(),
            (std::vector<int32_t>{id("<bos>"), id("<start_of_turn>"), id("user"), id("\n"),
                                  id("Hi"), id("<end_of_turn>"), id("\n"), id("<start_of_turn>"),
                                  id("model"), id("\n")}));
  EXPECT_EQ(tokenizer.encode_marked("plain text").value(),
            tokenizer.encode("plain text", /*add_special=*/false).value());
}

TEST(Gemma, TokenizerGivesTheIdsOfSentencePiece) {
  const auto source = model::open_model(gemma(), false, 0).value();
  const text::Tokenizer tokenizer = runtime::load_tokenizer(source).value();
  EXPECT_EQ(
      text::compare_with_golden(
          tokenizer, text::read_tokenizer_golden(
                         std::string(FOURFOLD_SOURCE_DIR) + "/tests/golden/tokenizer", "gemma3")),
      "");
}

}  // namespace
}  // namespace fourfold::tests
