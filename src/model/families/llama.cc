#include "model/families/family.h"

namespace fourfold::model {
namespace {

/// Llama 1 to 3.x and Mistral: config.json as transformers' LlamaConfig and MistralConfig write it.
base::Result<ModelSpec> from_config(const nlohmann::json& config) {
  FF_ASSIGN(ModelSpec spec, read_llama_like(config, "llama", 10000.0));
  FF_TRY(read_window(config, spec));
  add_params(spec, hf_llama_names(), /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

/// A Mixtral is stored as a Llama with experts.
base::Result<ModelSpec> from_gguf(const files::GgufFile& file) {
  FF_ASSIGN(ModelSpec spec, read_llama_like(file, "llama", "llama"));
  FF_ASSIGN(const ExpertsSpec experts, read_experts(file, "llama", /*renormalise=*/true));
  if (experts.count != 0) {
    FF_TRY(set_experts(spec, experts, {}, std::vector<bool>(spec.layers.size(), true)));
  }
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
