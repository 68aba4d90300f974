// Models with experts as data: what their descriptions become.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "model/families_test_support.h"
#include "model/presets.h"
#include "model/spec.h"

namespace fourfold::model {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

json changed(json config, const json& changes) {
  config.update(changes);
  return config;
}

json mixtral_config() {
  return changed(llama_config(), {{"architectures", {"MixtralForCausalLM"}},
                                  {"num_local_experts", 8},
                                  {"num_experts_per_tok", 2}});
}

/// Qwen3-MoE; Qwen2-MoE takes one key more.
json qwen_config(const std::string& architecture = "Qwen3MoeForCausalLM") {
  return changed(llama_config(), {{"architectures", {architecture}},
                                  {"num_experts", 8},
                                  {"num_experts_per_tok", 2},
                                  {"moe_intermediate_size", 40},
                                  {"shared_expert_intermediate_size", 72}});
}

json olmoe_config() {
  return changed(
      llama_config(),
      {{"architectures", {"OlmoeForCausalLM"}}, {"num_experts", 8}, {"num_experts_per_tok", 2}});
}

json deepseek_config() {
  return changed(llama_config(), {{"architectures", {"DeepseekForCausalLM"}},
                                  {"n_routed_experts", 8},
                                  {"n_shared_experts", 2},
                                  {"num_experts_per_tok", 3},
                                  {"moe_intermediate_size", 24},
                                  {"first_k_dense_replace", 1},
                                  {"routed_scaling_factor", 1.5}});
}

std::vector<json> moe_configs() {
  return {mixtral_config(), qwen_config(), qwen_config("Qwen2MoeForCausalLM"), olmoe_config(),
          deepseek_config()};
}

ModelSpec spec_of(const json& config) { return open(config.dump()).value(); }

/// The experts of each layer, 0 where it is dense.
std::vector<int64_t> experts_of(const ModelSpec& spec) {
  std::vector<int64_t> out;
  for (const LayerSpec& layer : spec.layers) out.push_back(layer.experts.count);
  return out;
}

TEST(MoeSpec, MixtralRenormalisesAndHasNothingBesideItsExperts) {
  const ModelSpec spec = spec_of(mixtral_config());
  EXPECT_THAT(experts_of(spec), ElementsAre(8, 8, 8));
  const LayerSpec& layer = spec.layers[1];
  EXPECT_EQ(layer.experts.routing, (backend::Routing{.top_k = 2, .renormalise = true}));
  EXPECT_EQ(layer.experts.intermediate, 96);
  EXPECT_EQ(layer.mlp.intermediate, 0);
  EXPECT_FALSE(spec.has(ParamKind::kGate, 1));
  EXPECT_EQ(spec.param(ParamKind::kExpertDown, 2, 7).name,
            "model.layers.2.block_sparse_moe.experts.7.w2.weight");
  const mesh::ModelDivisors divisors = spec.divisors();
  EXPECT_EQ(divisors.experts, 8);
  EXPECT_EQ(divisors.expert_granules, 3);
  EXPECT_EQ(divisors.intermediate_granules, 0);
}

TEST(MoeSpec, QwenSaysWhichLayersAreDense) {
  const auto sparse = [](json changes) {
    changes["num_hidden_layers"] = 6;
    return experts_of(spec_of(changed(qwen_config(), changes)));
  };
  EXPECT_THAT(sparse(json::object()), ElementsAre(8, 8, 8, 8, 8, 8));
  EXPECT_THAT(sparse({{"decoder_sparse_step", 2}}), ElementsAre(0, 8, 0, 8, 0, 8));
  EXPECT_THAT(sparse({{"mlp_only_layers", {0, 3}}}), ElementsAre(0, 8, 8, 0, 8, 8));
  EXPECT_THAT(sparse({{"decoder_sparse_step", 2}, {"mlp_only_layers", {1}}}),
              ElementsAre(0, 0, 0, 8, 0, 8));
  for (const json& layers : {json::array({3}), json::array({-1}), json::array({"a"}), json(1)}) {
    EXPECT_FALSE(open_with(qwen_config(), {{"mlp_only_layers", layers}}).ok()) << layers;
  }
  EXPECT_FALSE(open_with(qwen_config(), {{"decoder_sparse_step", 0}}).ok());
}

TEST(MoeSpec, QwenRenormalisesWhereTheConfigurationSaysSo) {
  for (const char* architecture : {"Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"}) {
    const json config = qwen_config(architecture);
    EXPECT_FALSE(spec_of(config).layers[0].experts.routing.renormalise);
    const ModelSpec spec = spec_of(changed(config, {{"norm_topk_prob", true}}));
    EXPECT_TRUE(spec.layers[0].experts.routing.renormalise);
  }
}

TEST(MoeSpec, Qwen2HasBiasesAndAGatedSharedExpert) {
  const json config = qwen_config("Qwen2MoeForCausalLM");
  const ModelSpec spec = spec_of(config);
  EXPECT_TRUE(spec.layers[0].mlp.gated);
  EXPECT_EQ(spec.layers[0].mlp.intermediate, 72);
  EXPECT_EQ(spec.param(ParamKind::kSharedGate, 0).rows, 1);
  EXPECT_FALSE(spec.param(ParamKind::kSharedGate, 0).is_vector);
  EXPECT_TRUE(spec.param(ParamKind::kKeyBias, 0).is_vector);
  EXPECT_FALSE(spec_of(changed(config, {{"qkv_bias", false}})).has(ParamKind::kKeyBias, 0));
}

TEST(MoeSpec, ABiasIsCutWithItsHeads) {
  const ModelSpec spec = spec_of(qwen_config("Qwen2MoeForCausalLM"));
  // 4 query heads and 2 key heads of 16: with tp 4 each key head is held twice.
  EXPECT_EQ(shard_of(spec, spec.param(ParamKind::kQueryBias, 0), 4, 3).columns,
            (mesh::Range{48, 64}));
  EXPECT_EQ(shard_of(spec, spec.param(ParamKind::kKeyBias, 0), 4, 1).columns, (mesh::Range{0, 16}));
  EXPECT_EQ(shard_of(spec, spec.param(ParamKind::kValueBias, 0), 2, 1).columns,
            (mesh::Range{16, 32}));
}

TEST(MoeSpec, DeepseekHasDenseLayersFirstAndSharedExpertsAsOne) {
  const ModelSpec spec =
      spec_of(changed(deepseek_config(), {{"num_hidden_layers", 5}, {"moe_layer_freq", 2}}));
  EXPECT_THAT(experts_of(spec), ElementsAre(0, 0, 8, 0, 8));
  EXPECT_EQ(spec.layers[0].mlp.intermediate, 96);
  EXPECT_EQ(spec.layers[2].mlp.intermediate, 48);
  EXPECT_EQ(spec.layers[2].experts.routing, (backend::Routing{.top_k = 3, .scale = 1.5F}));
  EXPECT_EQ(spec.param(ParamKind::kGate, 0).name, "model.layers.0.mlp.gate_proj.weight");
  EXPECT_EQ(spec.param(ParamKind::kGate, 2).name,
            "model.layers.2.mlp.shared_experts.gate_proj.weight");
  // The narrowest of the MLPs decides what tp may be.
  EXPECT_EQ(spec.divisors().intermediate_granules, 2);
  EXPECT_EQ(spec.divisors().expert_granules, 1);
  const ModelSpec alone = spec_of(changed(deepseek_config(), {{"n_shared_experts", nullptr}}));
  EXPECT_EQ(alone.layers[1].mlp.intermediate, 0);
}

TEST(MoeSpec, OlmoeNormsAllHeadsTogether) {
  const ModelSpec spec = spec_of(olmoe_config());
  EXPECT_TRUE(spec.layers[0].attention.wide_qk_norm);
  EXPECT_EQ(spec.param(ParamKind::kQueryNorm, 0).columns, 64);
  EXPECT_EQ(spec.param(ParamKind::kKeyNorm, 0).columns, 32);
}

TEST(MoeSpec, WhatTheDecoderDoesNotComputeIsRefused) {
  const auto refused = HasSubstr("not supported");
  for (const json& config : moe_configs()) {
    EXPECT_THAT(error_of(open_with(config, {{"hidden_act", "gelu"}})), refused);
    EXPECT_THAT(error_of(open_with(config, {{"attention_bias", true}})), refused);
    EXPECT_THAT(error_of(open_with(config, {{"rope_scaling", {{"rope_type", "yarn"}}}})), refused);
  }
  for (const char* architecture : {"Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"}) {
    const json config = qwen_config(architecture);
    EXPECT_THAT(error_of(open_with(config, {{"use_sliding_window", true}})), refused);
    EXPECT_THAT(error_of(open_with(config, {{"layer_types", {"sliding_attention"}}})), refused);
    EXPECT_TRUE(open_with(config, {{"use_sliding_window", false}, {"sliding_window", 4096}}).ok());
  }
  EXPECT_THAT(error_of(open_with(olmoe_config(), {{"clip_qkv", 8.0}})), refused);
  EXPECT_THAT(error_of(open_with(deepseek_config(), {{"scoring_func", "sigmoid"}})), refused);
  EXPECT_THAT(error_of(open_with(deepseek_config(), {{"n_group", 8}})), refused);
  const ModelSpec windows = spec_of(changed(mixtral_config(), {{"sliding_window", 24}}));
  EXPECT_EQ(windows.layers[0].attention.window, 24);
}

/// Keys of a configuration that size its experts.
std::vector<std::string> expert_sizes(const json& config) {
  std::vector<std::string> out;
  for (const auto& [key, value] : config.items()) {
    const bool is_size = key.find("expert") != std::string::npos || key == "moe_intermediate_size";
    const bool is_unread = key == "shared_expert_intermediate_size" &&
                           config["architectures"][0] == "Qwen3MoeForCausalLM";
    if (is_size && !is_unread) out.push_back(key);
  }
  return out;
}

TEST(MoeSpec, ImpossibleSizesAreErrors) {
  for (const json& config : moe_configs()) {
    for (const std::string& key : expert_sizes(config)) {
      for (const int64_t value : {int64_t{-1}, int64_t{1} << 40}) {
        EXPECT_FALSE(open_with(config, {{key, value}}).ok()) << key << " " << value;
      }
      EXPECT_EQ(open_with(config, {{key, 0}}).ok(), key == "n_shared_experts") << key;
    }
    EXPECT_THAT(error_of(open_with(config, {{"num_experts_per_tok", 9}})),
                HasSubstr("experts of a token is 9, expected 1 to 8"));
  }
  // Each is possible, together they are not.
  EXPECT_THAT(error_of(open_with(mixtral_config(),
                                 {{"num_local_experts", 4096}, {"intermediate_size", 1 << 20}})),
              HasSubstr("experts x their width"));
  EXPECT_THAT(
      error_of(open_with(qwen_config(), {{"num_experts", 4096}, {"num_hidden_layers", 1024}})),
      HasSubstr("number of matrices of experts"));
}

TEST(MoeSpec, ValuesOfAWrongTypeAreErrors) {
  const std::vector<json> wrong = {json("x"), json(true), json::array({1}), json{{"a", 1}},
                                   json(1.5)};
  for (const json& config : moe_configs()) {
    for (const std::string& key : expert_sizes(config)) {
      for (const json& value : wrong) {
        EXPECT_FALSE(open_with(config, {{key, value}}).ok()) << key << " " << value;
      }
    }
    for (const char* key : {"mlp_only_layers", "layer_types", "norm_topk_prob", "moe_layer_freq",
                            "routed_scaling_factor", "qkv_bias", "decoder_sparse_step"}) {
      for (const json& value : wrong) {
        // Some of these values are right for some of these keys; none may throw.
        EXPECT_NO_THROW(static_cast<void>(open_with(config, {{key, value}}))) << key;
      }
    }
  }
}

TEST(MoeSpec, ALayerCostsWhatARowComputes) {
  // The first layer is dense and costs 64 x (192 + 3 x 1024); those with experts 64 x (192 + 8 +
  // 2 x 3 x 96) although they hold 64 x (192 + 8 + 8 x 3 x 96); the head 64 x 261.
  const ModelSpec spec = spec_of(changed(qwen_config(), {{"num_hidden_layers", 8},
                                                         {"intermediate_size", 1024},
                                                         {"moe_intermediate_size", 96},
                                                         {"mlp_only_layers", {0}}}));
  EXPECT_THAT(layer_split(spec, 2), ElementsAre(0, 3, 8));
}

TEST(MoeSpec, ShardsOfAnExpertCoverItOnce) {
  const ModelSpec spec = spec_of(changed(qwen_config(), {{"moe_intermediate_size", 344}}));
  for (const int etp : {1, 2, 4, 8}) {
    int64_t rows = 0;
    for (int shard = 0; shard < etp; ++shard) {
      const ParamShard up = shard_of(spec, spec.param(ParamKind::kExpertUp, 1, 5), etp, shard);
      const ParamShard down = shard_of(spec, spec.param(ParamKind::kExpertDown, 1, 5), etp, shard);
      EXPECT_EQ(up.rows.begin, rows);
      EXPECT_EQ(up.rows, down.columns);
      EXPECT_EQ(std::ssize(down.slice_ends), 8 / etp);
      rows = up.rows.end;
    }
    EXPECT_EQ(rows, 344);
  }
}

TEST(Presets, OfModelsWithExpertsHaveThePublishedNumberOfParameters) {
  for (const auto& [name, id, count] :
       {std::tuple{"mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", int64_t{46702792704}},
        std::tuple{"qwen3-30b-a3b", "qwen/qwen3-30b-a3b", int64_t{30532122624}},
        std::tuple{"deepseek-moe-16b", "deepseek-ai/deepseek-moe-16b-base",
                   int64_t{16375728128}}}) {
    for (const char* spelling : {name, id}) {
      const auto source = open_model(spelling, /*dummy=*/true, 0);
      ASSERT_TRUE(source.ok()) << source.error().message;
      EXPECT_EQ(source->spec.parameter_count(), count) << spelling;
    }
  }
}

TEST(Presets, StandInOrderOfSize) {
  int64_t before = 0;
  for (const std::string& name : preset_names()) {
    const int64_t count = open_model(name, /*dummy=*/true, 0).value().spec.parameter_count();
    EXPECT_GT(count, before) << name;
    before = count;
  }
}

TinyGguf gguf(const std::string& arch) {
  TinyGguf file(arch);
  file.integer(arch + ".expert_count", 8).integer(arch + ".expert_used_count", 2);
  return file;
}

TEST(MoeGguf, ExpertsAreStackedInOneTensor) {
  const ModelSpec spec = gguf("llama").read().value();
  EXPECT_EQ(spec.layers[0].experts.routing, (backend::Routing{.top_k = 2, .renormalise = true}));
  const Param& param = spec.param(ParamKind::kExpertUp, 1, 3);
  EXPECT_EQ(param.name, "blk.1.ffn_up_exps.weight");
  EXPECT_EQ(param.stacked, 8);
  EXPECT_EQ(param.first_row, 3 * 96);
  EXPECT_EQ(TinyGguf("llama").read().value().experts(), 0);
}

TEST(MoeGguf, EachArchitectureHasItsWidthsAndItsRouter) {
  const ModelSpec qwen2 = gguf("qwen2moe")
                              .integer("qwen2moe.expert_feed_forward_length", 40)
                              .integer("qwen2moe.expert_shared_feed_forward_length", 72)
                              .read()
                              .value();
  EXPECT_EQ(qwen2.layers[0].experts.intermediate, 40);
  EXPECT_EQ(qwen2.layers[0].mlp.intermediate, 72);
  EXPECT_TRUE(qwen2.layers[0].mlp.gated);
  EXPECT_FALSE(qwen2.layers[0].experts.routing.renormalise);
  EXPECT_EQ(qwen2.param(ParamKind::kQueryBias, 2).name, "blk.2.attn_q.bias");

  const ModelSpec qwen3 =
      gguf("qwen3moe").integer("qwen3moe.expert_feed_forward_length", 40).read().value();
  EXPECT_TRUE(qwen3.layers[0].experts.routing.renormalise);
  EXPECT_EQ(qwen3.param(ParamKind::kQueryNorm, 0).columns, 16);

  const ModelSpec deepseek = gguf("deepseek")
                                 .integer("deepseek.expert_feed_forward_length", 40)
                                 .integer("deepseek.expert_shared_count", 2)
                                 .integer("deepseek.leading_dense_block_count", 1)
                                 .real("deepseek.expert_weights_scale", 1.5F)
                                 .read()
                                 .value();
  EXPECT_THAT(experts_of(deepseek), ElementsAre(0, 8, 8));
  EXPECT_EQ(deepseek.layers[0].mlp.intermediate, 96);
  EXPECT_EQ(deepseek.layers[1].mlp.intermediate, 80);
  EXPECT_EQ(deepseek.layers[1].experts.routing.scale, 1.5F);

  const ModelSpec olmoe = gguf("olmoe").read().value();
  EXPECT_TRUE(olmoe.layers[0].attention.wide_qk_norm);
  EXPECT_EQ(olmoe.layers[0].experts.intermediate, 96);
}

TEST(MoeGguf, RoutersThatTheArchitectureDoesNotHaveAreRefused) {
  const auto refused = HasSubstr("not supported");
  for (const char* arch : {"llama", "qwen2moe", "qwen3moe", "deepseek", "olmoe"}) {
    const std::string prefix = std::string(arch) + ".";
    EXPECT_THAT(error_of(gguf(arch).integer(prefix + "expert_gating_func", 2).read()), refused);
    EXPECT_THAT(error_of(gguf(arch).integer(prefix + "expert_group_count", 4).read()), refused);
  }
  EXPECT_THAT(error_of(gguf("qwen2moe").boolean("qwen2moe.expert_weights_norm", true).read()),
              refused);
  EXPECT_THAT(error_of(gguf("olmoe").real("olmoe.attention.clamp_kqv", 8).read()), refused);
  EXPECT_FALSE(TinyGguf("qwen3moe").read().ok()) << "no experts";
}

}  // namespace
}  // namespace fourfold::model
