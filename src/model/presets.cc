#include "model/presets.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>

namespace fourfold::model {
namespace {

struct Preset {
  std::string_view name;
  std::string_view hub_id;  ///< empty: not a published model
  std::string_view architecture;
  int64_t layers, hidden, intermediate, heads, kv_heads, vocab, positions;
  double rope_theta;
  std::string_view more;  ///< of config.json, beside what every model has
};

constexpr std::string_view kNothing = "{}";
constexpr std::string_view kLlama3Rope = R"({"rope_scaling": {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192}})";
constexpr std::string_view kDeepseekMoe = R"({
    "rms_norm_eps": 1e-6, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2,
    "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "norm_topk_prob": false, "scoring_func": "softmax"})";
constexpr std::string_view kQwen3Moe = R"({
    "rms_norm_eps": 1e-6, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
    "moe_intermediate_size": 768, "norm_topk_prob": true, "decoder_sparse_step": 1,
    "mlp_only_layers": []})";
constexpr std::string_view kMixtral = R"({"num_local_experts": 8, "num_experts_per_tok": 2})";

constexpr std::string_view kLlama = "LlamaForCausalLM";

constexpr std::array kPresets = {
    Preset{"llama-1b", "", kLlama, 16, 2048, 8192, 32, 8, 32000, 4096, 10000.0, kNothing},
    Preset{"llama-2-7b", "meta-llama/Llama-2-7b-hf", kLlama, 32, 4096, 11008, 32, 32, 32000, 4096,
           10000.0, kNothing},
    Preset{"mistral-7b", "mistralai/Mistral-7B-v0.3", kLlama, 32, 4096, 14336, 32, 8, 32768, 32768,
           1e6, kNothing},
    Preset{"llama-3.1-8b", "meta-llama/Llama-3.1-8B", kLlama, 32, 4096, 14336, 32, 8, 128256,
           131072, 5e5, kLlama3Rope},
    Preset{"deepseek-moe-16b", "deepseek-ai/deepseek-moe-16b-base", "DeepseekForCausalLM", 28, 2048,
           10944, 16, 16, 102400, 4096, 10000.0, kDeepseekMoe},
    Preset{"qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", "Qwen3MoeForCausalLM", 48, 2048, 6144, 32, 4,
           151936, 40960, 1e6, kQwen3Moe},
    Preset{"mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", "MixtralForCausalLM", 32, 4096, 14336, 32,
           8, 32000, 32768, 1e6, kMixtral},
    Preset{"llama-2-70b", "meta-llama/Llama-2-70b-hf", kLlama, 80, 8192, 28672, 64, 8, 32000, 4096,
           10000.0, kNothing},
    Preset{"llama-3.1-70b", "meta-llama/Llama-3.1-70B", kLlama, 80, 8192, 28672, 64, 8, 128256,
           131072, 5e5, kLlama3Rope},
};

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) ==
           std::tolower(static_cast<unsigned char>(y));
  });
}

}  // namespace

std::optional<nlohmann::json> preset_config(std::string_view name) {
  const auto it = std::find_if(kPresets.begin(), kPresets.end(), [&](const Preset& p) {
    return same_name(name, p.name) || (!p.hub_id.empty() && same_name(name, p.hub_id));
  });
  if (it == kPresets.end()) return std::nullopt;
  nlohmann::json config = {{"architectures", {it->architecture}},
                           {"hidden_size", it->hidden},
                           {"intermediate_size", it->intermediate},
                           {"num_hidden_layers", it->layers},
                           {"num_attention_heads", it->heads},
                           {"num_key_value_heads", it->kv_heads},
                           {"vocab_size", it->vocab},
                           {"max_position_embeddings", it->positions},
                           {"rms_norm_eps", 1e-5},
                           {"rope_theta", it->rope_theta},
                           {"tie_word_embeddings", false}};
  config.update(nlohmann::json::parse(it->more));
  return config;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> out;
  for (const Preset& p : kPresets) out.emplace_back(p.name);
  return out;
}

}  // namespace fourfold::model
