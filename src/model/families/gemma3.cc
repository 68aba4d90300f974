#include <cmath>

#include "files/json.h"
#include "model/families/family.h"

namespace fourfold::model {
namespace {

constexpr std::string_view kConfig = "config.json";
/// Every sixth layer sees everything, the others a window (Gemma 3 technical report, 2025).
constexpr int64_t kDefaultPattern = 6;

/// ropes[0] is for windows, ropes[1] for full attention.
void finish(ModelSpec& spec, const std::vector<bool>& is_window, int64_t window) {
  spec.family = "gemma3";
  spec.embedding_scale = std::sqrt(static_cast<float>(spec.hidden));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    layer.post_norms = true;
    layer.mlp.activation = backend::Activation::kGeluTanh;
    layer.attention.qk_norm = true;
    layer.attention.window = is_window[i] ? window : 0;
    layer.attention.rope = is_window[i] ? 0 : 1;
  }
}

base::Result<std::vector<bool>> read_layer_types(const nlohmann::json& config, size_t layers) {
  std::vector<bool> is_window;
  const auto types = config.find("layer_types");
  if (types == config.end() || types->is_null()) {
    FF_ASSIGN(const int64_t pattern, files::json_get_or<int64_t>(config, "sliding_window_pattern",
                                                                 kDefaultPattern, kConfig));
    if (pattern < 1) return base::fail("\"sliding_window_pattern\" in {} is {}", kConfig, pattern);
    for (size_t i = 0; i < layers; ++i) {
      is_window.push_back((i + 1) % static_cast<size_t>(pattern) != 0);
    }
    return is_window;
  }
  if (!types->is_array() || types->size() != layers) {
    return base::fail("expected {} entries for \"layer_types\" in {}", layers, kConfig);
  }
  for (const nlohmann::json& type : *types) {
    if (type != "sliding_attention" && type != "full_attention") {
      return base::fail(
          "expected sliding_attention or full_attention in \"layer_types\" of {}, "
          "found {}",
          kConfig, type.dump());
    }
    is_window.push_back(type == "sliding_attention");
  }
  return is_window;
}

base::Result<std::vector<RopeSpec>> read_ropes(const nlohmann::json& config) {
  const auto parameters = config.value("rope_parameters", nlohmann::json());
  if (!parameters.is_null()) {
    if (!parameters.is_object() || !parameters.contains("sliding_attention") ||
        !parameters.contains("full_attention")) {
      return base::fail(
          "expected sliding_attention and full_attention in \"rope_parameters\" of {}, found {}",
          kConfig, parameters.dump());
    }
    FF_ASSIGN(RopeSpec window, read_rope({}, parameters["sliding_attention"], 10000.0));
    FF_ASSIGN(RopeSpec full, read_rope({}, parameters["full_attention"], 1e6));
    return std::vector<RopeSpec>{window, full};
  }
  RopeSpec window;
  FF_ASSIGN(window.theta,
            files::json_get_or<double>(config, "rope_local_base_freq", 10000.0, kConfig));
  FF_TRY(check_positive("rope_local_base_freq", window.theta));
  FF_ASSIGN(RopeSpec full, read_rope(config, config.value("rope_scaling", nlohmann::json()), 1e6));
  return std::vector<RopeSpec>{window, full};
}

base::Result<std::vector<RopeSpec>> read_ropes(const files::GgufMetadata& metadata) {
  RopeSpec window;
  RopeSpec full;
  FF_ASSIGN(window.theta, metadata.get_or<double>("gemma3.rope.freq_base_swa", 10000.0));
  FF_TRY(check_positive("gemma3.rope.freq_base_swa", window.theta));
  FF_ASSIGN(full.theta, metadata.get_or<double>("gemma3.rope.freq_base", 1e6));
  FF_TRY(check_positive("gemma3.rope.freq_base", full.theta));
  FF_ASSIGN(const auto type,
            metadata.get_or<std::string_view>("gemma3.rope.scaling.type", "linear"));
  if (type == "none") return std::vector<RopeSpec>{window, full};
  if (type != "linear") {
    return base::fail(
        "gemma3.rope.scaling.type \"{}\" in the GGUF file is not supported: expected linear or "
        "none",
        type);
  }
  FF_ASSIGN(full.factor, metadata.get_or<double>("gemma3.rope.scaling.factor", 1.0));
  FF_TRY(check_positive("gemma3.rope.scaling.factor", full.factor));
  full.scaling = RopeSpec::Scaling::kLinear;
  return std::vector<RopeSpec>{window, full};
}

/// config.json as transformers' Gemma3TextConfig writes it.
base::Result<ModelSpec> from_config(const nlohmann::json& config) {
  FF_TRY(require(config, "hidden_activation", "gelu_pytorch_tanh"));
  FF_TRY(require(config, "attention_bias", false));
  FF_TRY(require(config, "attn_logit_softcapping", nullptr));
  FF_TRY(require(config, "final_logit_softcapping", nullptr));
  FF_TRY(require(config, "use_bidirectional_attention", false));
  FF_ASSIGN(ModelSpec spec, read_dimensions(config));
  FF_ASSIGN(spec.tied_embeddings,
            files::json_get_or<bool>(config, "tie_word_embeddings", true, kConfig));
  FF_ASSIGN(const double scalar, files::json_get<double>(config, "query_pre_attn_scalar", kConfig));
  FF_TRY(check_positive("query_pre_attn_scalar", scalar));
  for (LayerSpec& layer : spec.layers) {
    layer.attention.scale = static_cast<float>(1.0 / std::sqrt(scalar));
  }
  FF_ASSIGN(const int64_t window, files::json_get_positive(config, "sliding_window", kConfig));
  FF_ASSIGN(spec.ropes, read_ropes(config));
  FF_ASSIGN(const std::vector<bool> is_window, read_layer_types(config, spec.layers.size()));
  finish(spec, is_window, window);

  ParamNames names = hf_llama_names();
  names.query_norm = "model.layers.{}.self_attn.q_norm.weight";
  names.key_norm = "model.layers.{}.self_attn.k_norm.weight";
  names.post_attention_norm = "model.layers.{}.post_attention_layernorm.weight";
  names.mlp_norm = "model.layers.{}.pre_feedforward_layernorm.weight";
  names.post_mlp_norm = "model.layers.{}.post_feedforward_layernorm.weight";
  // Gemma stores gain - 1.
  add_params(spec, names, /*norm_offset=*/1, /*interleaved=*/false);
  return spec;
}

base::Result<ModelSpec> from_gguf(const files::GgufFile& file) {
  FF_TRY(require(file, "gemma3.attn_logit_softcapping", 0.0));
  FF_TRY(require(file, "gemma3.final_logit_softcapping", 0.0));
  FF_TRY(require(file, "gemma3.attention.sliding_window_pattern", kDefaultPattern));
  FF_ASSIGN(ModelSpec spec, read_dimensions(file, "gemma3"));
  FF_ASSIGN(const int64_t window, file.metadata.get<int64_t>("gemma3.attention.sliding_window"));
  if (window < 1) return base::fail("gemma3.attention.sliding_window is {}", window);
  FF_ASSIGN(spec.ropes, read_ropes(file.metadata));
  std::vector<bool> is_window;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    is_window.push_back((i + 1) % static_cast<size_t>(kDefaultPattern) != 0);
  }
  finish(spec, is_window, window);
  // The 27B model scales scores by its hidden size per head; the file does not say so.
  constexpr size_t kLayersOf27B = 62;
  if (spec.layers.size() == kLayersOf27B) {
    for (LayerSpec& layer : spec.layers) {
      layer.attention.scale = static_cast<float>(
          std::sqrt(static_cast<double>(layer.attention.heads) / static_cast<double>(spec.hidden)));
    }
  }
  ParamNames names = gguf_names();
  names.query_norm = "blk.{}.attn_q_norm.weight";
  names.key_norm = "blk.{}.attn_k_norm.weight";
  names.post_attention_norm = "blk.{}.post_attention_norm.weight";
  names.post_mlp_norm = "blk.{}.post_ffw_norm.weight";
  // The converter has already added the 1 to the gains.
  add_params(spec, names, /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

}  // namespace

const Family& gemma3_family() {
  static const Family kFamily = {.hf_architectures = {"Gemma3ForCausalLM"},
                                 .gguf_architectures = {"gemma3"},
                                 .from_config = from_config,
                                 .from_gguf = from_gguf};
  return kFamily;
}

}  // namespace fourfold::model
