#include "files/json.h"
#include "model/families/family.h"

namespace fourfold::model {
namespace {

/// Llama 1 to 3.x and Mistral: config.json as transformers' LlamaConfig and MistralConfig write it.
base::Result<ModelSpec> from_config(const nlohmann::json& config) {
  FF_TRY(require(config, "hidden_act", "silu"));
  FF_TRY(require(config, "attention_bias", false));
  FF_TRY(require(config, "mlp_bias", false));
  FF_ASSIGN(ModelSpec spec, read_dimensions(config));
  spec.family = "llama";
  FF_ASSIGN(spec.tied_embeddings,
            files::json_get_or<bool>(config, "tie_word_embeddings", false, "config.json"));
  nlohmann::json parameters = config.value("rope_parameters", nlohmann::json());
  if (parameters.is_null()) parameters = config.value("rope_scaling", nlohmann::json());
  FF_ASSIGN(const RopeSpec rope, read_rope(config, parameters, 10000.0));
  spec.ropes = {rope};
  FF_ASSIGN(const int64_t window,
            files::json_get_or<int64_t>(config, "sliding_window", 0, "config.json"));
  if (window < 0) return base::fail("\"sliding_window\" in config.json is {}", window);
  for (LayerSpec& layer : spec.layers) layer.attention.window = window;
  add_params(spec, hf_llama_names(), /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

base::Result<ModelSpec> from_gguf(const files::GgufFile& file) {
  FF_TRY(require<std::string_view>(file, "llama.rope.scaling.type", "none"));
  FF_TRY(require(file, "llama.rope.scaling.factor", 1.0));
  FF_TRY(require(file, "llama.rope.scale_linear", 1.0));
  FF_TRY(require<int64_t>(file, "llama.attention.sliding_window", 0));
  FF_ASSIGN(ModelSpec spec, read_dimensions(file, "llama"));
  spec.family = "llama";
  RopeSpec rope;
  FF_ASSIGN(rope.theta, file.metadata.get_or<double>("llama.rope.freq_base", 10000.0));
  FF_TRY(check_positive("llama.rope.freq_base", rope.theta));
  if (file.tensors.find("rope_freqs.weight") != nullptr) {
    return base::fail(
        "the GGUF file scales its rotary frequencies (rope_freqs.weight), which is not "
        "supported: use the model's Hugging Face folder");
  }
  spec.ropes = {rope};
  // The converter interleaves the rows of each query and key head for its own rotary order.
  add_params(spec, gguf_names(), /*norm_offset=*/0, /*interleaved=*/true);
  return spec;
}

}  // namespace

const Family& llama_family() {
  static const Family kFamily = {.hf_architectures = {"LlamaForCausalLM", "MistralForCausalLM"},
                                 .gguf_architectures = {"llama"},
                                 .from_config = from_config,
                                 .from_gguf = from_gguf};
  return kFamily;
}

}  // namespace fourfold::model
