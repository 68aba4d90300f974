#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "files/scratch_folder.h"
#include "model/families_test_support.h"
#include "model/source.h"
#include "model/spec.h"

namespace fourfold::model {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

json gemma3_config() {
  json config = llama_config();
  config.update({{"architectures", {"Gemma3ForCausalLM"}},
                 {"query_pre_attn_scalar", 24},
                 {"sliding_window", 24}});
  return config;
}

json llama3_rope() {
  return {{"rope_type", "llama3"},
          {"factor", 8.0},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", 64}};
}

TEST(Config, ThatIsNotAnObjectIsAnError) {
  for (const char* text : {"[]", "3", "null", "\"a\""}) {
    EXPECT_THAT(error_of(open(text)), HasSubstr("expected a JSON object")) << text;
  }
  EXPECT_THAT(error_of(open(llama_config().dump(), "[1]")), HasSubstr("expected a JSON object"));
}

TEST(Config, ValuesOfAWrongTypeAreErrors) {
  EXPECT_TRUE(open_with(llama_config(), json::object()).ok());
  EXPECT_TRUE(open_with(gemma3_config(), json::object()).ok());
  const std::vector<json> wrong = {json(3), json("x"), json(true), json{1}, json{{"a", 1}}};
  const std::vector<std::string> keys = {
      "architectures", "rope_parameters", "rope_scaling", "rope_theta",   "hidden_size",
      "bos_token_id",  "eos_token_id",    "layer_types",  "rms_norm_eps", "sliding_window"};
  for (const std::string& key : keys) {
    for (const json& value : wrong) {
      // Some of these values are right for some of these keys; none may throw.
      EXPECT_NO_THROW(static_cast<void>(open_with(llama_config(), {{key, value}})));
      EXPECT_NO_THROW(static_cast<void>(open_with(gemma3_config(), {{key, value}})));
    }
    EXPECT_FALSE(open_with(gemma3_config(), {{key, true}}).ok()) << key;
  }
  EXPECT_FALSE(open_with(gemma3_config(), {{"layer_types", {1, 2, 3}}}).ok());
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    EXPECT_THAT(error_of(open_with(llama_config(), {{key, 3}})), HasSubstr("expected an object"));
  }
}

TEST(Config, SizesWhoseProductsOverflowAreErrors) {
  const int64_t huge = int64_t{1} << 20;
  for (const char* key : {"hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "head_dim", "max_position_embeddings"}) {
    for (const int64_t value : {huge * 32, std::numeric_limits<int64_t>::max()}) {
      EXPECT_THAT(error_of(open_with(llama_config(), {{key, value}})), HasSubstr("expected 1 to"))
          << key;
    }
  }
  EXPECT_THAT(error_of(open_with(
                  llama_config(),
                  {{"num_attention_heads", huge}, {"num_key_value_heads", 1}, {"head_dim", 2}})),
              HasSubstr("heads x head dimension"));
  EXPECT_THAT(error_of(open_with(llama_config(), {{"hidden_size", huge},
                                                  {"intermediate_size", huge},
                                                  {"head_dim", 16},
                                                  {"num_hidden_layers", 1024}})),
              HasSubstr("number of parameters"));
}

TEST(Config, NumbersThatMustBePositiveAreChecked) {
  for (const double value : {0.0, -1.0, 1e-60, 1e60}) {
    EXPECT_FALSE(open_with(llama_config(), {{"rms_norm_eps", value}}).ok()) << value;
    EXPECT_FALSE(open_with(llama_config(), {{"rope_theta", value}}).ok()) << value;
    EXPECT_FALSE(open_with(gemma3_config(), {{"rope_local_base_freq", value}}).ok()) << value;
    for (const char* key : {"factor", "low_freq_factor", "high_freq_factor"}) {
      json rope = llama3_rope();
      rope[key] = value;
      EXPECT_FALSE(open_with(llama_config(), {{"rope_scaling", rope}}).ok()) << key << value;
    }
  }
  json rope = llama3_rope();
  rope["high_freq_factor"] = rope["low_freq_factor"];
  EXPECT_FALSE(open_with(llama_config(), {{"rope_scaling", rope}}).ok());
}

TEST(Config, NullRopeParametersDoNotHideRopeScaling) {
  const ModelSpec spec =
      open_with(llama_config(), {{"rope_parameters", nullptr}, {"rope_scaling", llama3_rope()}})
          .value();
  EXPECT_EQ(spec.ropes.front().scaling, RopeSpec::Scaling::kLlama3);
}

TEST(Config, RopeThatIsNotImplementedIsRefused) {
  for (const json& config : {llama_config(), gemma3_config()}) {
    EXPECT_FALSE(open_with(config, {{"partial_rotary_factor", 0.5}}).ok());
    EXPECT_TRUE(open_with(config, {{"partial_rotary_factor", 1.0}}).ok());
  }
  EXPECT_FALSE(
      open_with(llama_config(), {{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}).ok());
  const json flat = {{"rope_theta", 1e6}, {"rope_type", "default"}};
  EXPECT_THAT(error_of(open_with(gemma3_config(), {{"rope_parameters", flat}})),
              HasSubstr("expected sliding_attention and full_attention"));
  EXPECT_TRUE(
      open_with(gemma3_config(),
                {{"rope_parameters", {{"sliding_attention", flat}, {"full_attention", flat}}}})
          .ok());
}

TEST(Config, TokensOutsideTheVocabularyAreErrors) {
  EXPECT_THAT(open_with(llama_config(), {{"eos_token_id", {2, 260}}}).value().eos_tokens,
              ElementsAre(2, 260));
  for (const int64_t id : {int64_t{-1}, int64_t{261}, (int64_t{1} << 32) + 1}) {
    const std::string generation = json{{"eos_token_id", {2, id}}}.dump();
    EXPECT_THAT(error_of(open_with(llama_config(), {{"bos_token_id", id}})), HasSubstr("token id"));
    EXPECT_THAT(error_of(open_with(llama_config(), {{"eos_token_id", id}})), HasSubstr("token id"));
    EXPECT_THAT(error_of(open(llama_config().dump(), generation)), HasSubstr("token id"));
  }
}

TEST(Params, AMatrixOfOneRowIsNotAVector) {
  ModelSource source;
  json config = llama_config();
  config.update({{"vocab_size", 1},
                 {"intermediate_size", 1},
                 {"bos_token_id", nullptr},
                 {"eos_token_id", nullptr}});
  source.spec = open(config.dump()).value();
  EXPECT_TRUE(source.spec.param(ParamKind::kFinalNorm).is_vector);
  EXPECT_FALSE(source.spec.param(ParamKind::kEmbedding).is_vector);
  EXPECT_FALSE(source.spec.param(ParamKind::kGate, 0).is_vector);
}

TEST(LayerSplit, CountsTheHeadWithTheLastStage) {
  const ModelSpec spec =
      open_with(llama_config(), {{"num_hidden_layers", 8}, {"vocab_size", 2048}}).value();
  // The head of 2048 x 64 weighs as much as 4.3 layers of 64 x (2 x 6 x 16 + 3 x 96).
  EXPECT_THAT(layer_split(spec, 2), ElementsAre(0, 6, 8));
}

TEST(HubCache, TheBranchMainNamesTheSnapshot) {
  const files::ScratchFolder hub;
  const std::filesystem::path model = hub.path() / "models--some--model";
  const auto add = [&](const std::string& commit, int layers) {
    std::filesystem::create_directories(model / "snapshots" / commit);
    json config = llama_config();
    config["num_hidden_layers"] = layers;
    hub.write("models--some--model/snapshots/" + commit + "/config.json", config.dump());
  };
  add("aaaa", 1);
  add("bbbb", 2);
  const auto now = std::filesystem::last_write_time(model / "snapshots" / "aaaa");
  std::filesystem::last_write_time(model / "snapshots" / "bbbb", now + std::chrono::hours(1));
  ASSERT_EQ(setenv("HF_HUB_CACHE", hub.path().c_str(), 1), 0);
  EXPECT_EQ(open_model("some/model", true, 0).value().spec.layers.size(), 2U);
  std::filesystem::create_directories(model / "refs");
  hub.write("models--some--model/refs/main", "aaaa\n");
  EXPECT_EQ(open_model("some/model", true, 0).value().spec.layers.size(), 1U);
  unsetenv("HF_HUB_CACHE");
}

TEST(GgufModel, EndOfTurnEndsAnAnswerToo) {
  const ModelSpec spec = TinyGguf("llama")
                             .integer("tokenizer.ggml.bos_token_id", 1)
                             .integer("tokenizer.ggml.eos_token_id", 2)
                             .integer("tokenizer.ggml.eot_token_id", 9)
                             .read()
                             .value();
  EXPECT_EQ(spec.bos_token, 1);
  EXPECT_THAT(spec.eos_tokens, ElementsAre(2, 9));
}

TEST(GgufModel, TokensOutsideTheVocabularyAreErrors) {
  for (const char* key : {"bos_token_id", "eos_token_id", "eot_token_id"}) {
    EXPECT_THAT(
        error_of(TinyGguf("llama").integer(std::string("tokenizer.ggml.") + key, 261).read()),
        HasSubstr("expected a token id of 0 to 260"))
        << key;
  }
}

TEST(GgufModel, WhatTheDecoderDoesNotComputeIsRefused) {
  const auto refused = HasSubstr("not supported");
  const auto llama = [] { return TinyGguf("llama"); };
  EXPECT_THAT(error_of(llama().text("llama.rope.scaling.type", "linear").read()), refused);
  EXPECT_THAT(error_of(llama().real("llama.rope.scaling.factor", 2).read()), refused);
  EXPECT_THAT(error_of(llama().integer("llama.rope.dimension_count", 8).read()), refused);
  EXPECT_THAT(error_of(llama().integer("llama.attention.value_length", 8).read()), refused);
  EXPECT_TRUE(llama().text("llama.rope.scaling.type", "none").read().ok());
  EXPECT_TRUE(llama().integer("llama.rope.dimension_count", 16).read().ok());

  const auto gemma3 = [] { return TinyGguf("gemma3"); };
  EXPECT_THAT(error_of(gemma3().text("gemma3.rope.scaling.type", "yarn").read()), refused);
  EXPECT_THAT(error_of(gemma3().real("gemma3.attn_logit_softcapping", 50).read()), refused);
  EXPECT_THAT(error_of(gemma3().real("gemma3.final_logit_softcapping", 30).read()), refused);
  const ModelSpec scaled = gemma3()
                               .text("gemma3.rope.scaling.type", "linear")
                               .real("gemma3.rope.scaling.factor", 8)
                               .read()
                               .value();
  EXPECT_EQ(scaled.ropes[1].factor, 8.0);
}

TEST(GgufModel, ABiasThatWouldBeIgnoredIsRefused) {
  const files::ScratchFolder folder;
  const auto path =
      folder.write("model.gguf", TinyGguf("llama").tensor("blk.0.attn_q.bias").finish());
  EXPECT_THAT(error_of(open_model(path.string(), /*dummy=*/false, 0)),
              HasSubstr("\"blk.0.attn_q.bias\" is a bias that is not supported"));
}

TEST(GgufModel, NumbersThatMustBePositiveAreChecked) {
  for (const float value :
       {0.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    EXPECT_FALSE(TinyGguf("llama").real("llama.rope.freq_base", value).read().ok());
    EXPECT_FALSE(TinyGguf("gemma3").real("gemma3.rope.scaling.factor", value).read().ok());
  }
}

}  // namespace
}  // namespace fourfold::model
