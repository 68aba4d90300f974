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

/// The registry, for messages and look-up.
std::span<const Family* const> families();

// Parts that families share.

/// Names of parameters in a file; "{}" is the layer. An empty name: the model has none.
struct ParamNames {
  std::string_view embedding, final_norm, head;
  std::string_view attention_norm, query, key, value, query_norm, key_norm, output;
  std::string_view post_attention_norm, mlp_norm, gate, up, down, post_mlp_norm;
};
/// Names of the Llama layout of Hugging Face, without QK-norm or post-norms.
ParamNames hf_llama_names();
/// The same for GGUF.
ParamNames gguf_names();

/// Fills spec.params from the dimensions in spec. `norm_offset` is added to every norm gain;
/// `interleaved`: query and key rows are stored interleaved per head.
void add_params(ModelSpec& spec, const ParamNames& names, float norm_offset, bool interleaved);

/// The dimensions that every config.json of a Llama-like model has, one LayerSpec for all layers.
/// Leaves ropes, windows, params and family-specific switches to the caller.
base::Result<ModelSpec> read_dimensions(const nlohmann::json& config);
/// The same from the metadata of a GGUF file, keys under `arch`.
base::Result<ModelSpec> read_dimensions(const files::GgufFile& file, std::string_view arch);

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

/// A number of the description that must be finite and more than 0, in fp32 too.
base::Status check_positive(std::string_view name, double value);

/// config[key], one token id or a list of them, each below `vocab`; empty where absent or null.
base::Result<std::vector<int32_t>> read_token_ids(const nlohmann::json& config,
                                                  std::string_view key, int64_t vocab,
                                                  std::string_view what);

}  // namespace fourfold::model
