#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "files/gguf.h"
#include "model/spec.h"

namespace fourfold::model {

/// One architecture: how its configuration becomes a ModelSpec. A new architecture is one file
/// here, one line in the registry and one golden fixture.
struct Family {
  /// "architectures" of config.json that it reads.
  std::vector<std::string_view> hf_architectures;
  /// general.architecture of GGUF files that it reads.
  std::vector<std::string_view> gguf_architectures;
  base::Result<ModelSpec> (*from_config)(const nlohmann::json& config);
  base::Result<ModelSpec> (*from_gguf)(const files::GgufFile& file);
};

const Family& llama_family();
const Family& gemma3_family();
const Family& mixtral_family();
const Family& qwen2_moe_family();
const Family& qwen3_moe_family();
const Family& deepseek_family();
const Family& olmoe_family();

/// The registry, for messages and look-up.
std::span<const Family* const> families();

// Parts that families share.

/// Names of the three matrices of a gated MLP.
struct MlpNames {
  std::string_view gate, up, down;
};

/// Names of parameters in a file; "{}" is the layer. An empty name: the model has none.
struct ParamNames {
  std::string_view embedding, final_norm, head;
  std::string_view attention_norm, query, key, value, query_norm, key_norm, output;
  std::string_view query_bias, key_bias, value_bias;
  std::string_view post_attention_norm, mlp_norm, post_mlp_norm;
  MlpNames mlp;  ///< of a layer without experts
  std::string_view router, router_bias;
  /// A second "{}" is the expert; without it one tensor stacks the experts.
  MlpNames expert;
  MlpNames shared_experts;
  std::string_view shared_gate;  ///< of the sigmoid on the shared experts
};
/// Names of the Llama layout of Hugging Face, without biases, QK-norm, post-norms or experts.
ParamNames hf_llama_names();
/// The same with experts as most families name them.
ParamNames hf_moe_names();
/// Those of GGUF, with experts, without biases, QK-norm or post-norms.
ParamNames gguf_names();

/// Fills spec.params from the dimensions in spec. `norm_offset` is added to every norm gain;
/// `interleaved`: query and key rows are stored interleaved per head.
void add_params(ModelSpec& spec, const ParamNames& names, float norm_offset, bool interleaved);

/// The dimensions that every config.json of a Llama-like model has, one LayerSpec for all layers.
/// Leaves ropes, windows, params and family-specific switches to the caller.
base::Result<ModelSpec> read_dimensions(const nlohmann::json& config);
/// The same from the metadata of a GGUF file, keys under `arch`.
base::Result<ModelSpec> read_dimensions(const files::GgufFile& file, std::string_view arch);

/// What Llama and the many models after its pattern have in common: SiLU, no bias, one rotary
/// embedding. Leaves windows, experts and params to the caller.
base::Result<ModelSpec> read_llama_like(const nlohmann::json& config, std::string_view family,
                                        double default_theta);
base::Result<ModelSpec> read_llama_like(const files::GgufFile& file, std::string_view arch,
                                        std::string_view family);

/// "sliding_window" of config.json, absent or null for none, into every layer.
base::Status read_window(const nlohmann::json& config, ModelSpec& spec);
/// Refuses the windows of Qwen's configurations.
base::Status require_full_attention(const nlohmann::json& config);

/// Keys of config.json that families spell differently.
struct ExpertKeys {
  std::string_view count;
  std::string_view intermediate;
};
/// Experts behind a softmax router that takes num_experts_per_tok of them. Leaves out whether their
/// weights are renormalised.
base::Result<ExpertsSpec> read_experts(const nlohmann::json& config, const ExpertKeys& keys);
/// The same from the metadata of a GGUF file, whose experts are as wide as its MLP if it says
/// nothing else; count 0 where it has none. `renormalise`: what the architecture does, which the
/// file may not contradict.
base::Result<ExpertsSpec> read_experts(const files::GgufFile& file, std::string_view arch,
                                       bool renormalise);
/// Which layers have experts by "decoder_sparse_step" and "mlp_only_layers" (Qwen).
base::Result<std::vector<bool>> read_sparse_layers(const nlohmann::json& config, size_t layers);
/// Gives the layers that are `sparse` these experts, and `shared` in place of their MLP. Errors:
/// sizes that are not possible.
base::Status set_experts(ModelSpec& spec, const ExpertsSpec& experts, const MlpSpec& shared,
                         const std::vector<bool>& sparse);

/// rope_theta of `config` (null where `parameters` is all there is) and `parameters`: the value of
/// rope_scaling, or of rope_parameters in newer files; null where there is none.
base::Result<RopeSpec> read_rope(const nlohmann::json& config, const nlohmann::json& parameters,
                                 double default_theta);

/// Refuses a value that the decoder does not implement, instead of ignoring it: `config[key]` must
/// be absent, null or equal to `expected`.
base::Status require(const nlohmann::json& config, std::string_view key,
                     const nlohmann::json& expected);
/// The same for the metadata of a GGUF file.
template <typename T>
base::Status require(const files::GgufFile& file, std::string_view key, T expected) {
  FF_ASSIGN(const T found, file.metadata.get_or<T>(key, expected));
  if (found == expected) return {};
  return base::fail("\"{}\": {} in the GGUF file is not supported, only {} is", key, found,
                    expected);
}

/// Nothing in a model's description may be absurd before anything is sized by it. Within these
/// limits no product of sizes (of a matrix, a KV block, the activations of a step) overflows.
inline constexpr int64_t kMaxDimension = int64_t{1} << 20;
inline constexpr int64_t kMaxParameters = int64_t{1} << 46;
/// A size of the description that must be 1 to `max`.
base::Status check_range(std::string_view name, int64_t value, int64_t max);

/// A number of the description that must be finite and more than 0, in fp32 too.
base::Status check_positive(std::string_view name, double value);

/// config[key], one token id or a list of them, each below `vocab`; empty where absent or null.
base::Result<std::vector<int32_t>> read_token_ids(const nlohmann::json& config,
                                                  std::string_view key, int64_t vocab,
                                                  std::string_view what);

}  // namespace fourfold::model
