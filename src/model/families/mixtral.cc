#include "model/families/family.h"

namespace fourfold::model {
namespace {

/// config.json as transformers' MixtralConfig writes it.
base::Result<ModelSpec> from_config(const nlohmann::json& config) {
  FF_ASSIGN(ModelSpec spec, read_llama_like(config, "mixtral", 1e6));
  FF_TRY(read_window(config, spec));
  FF_ASSIGN(ExpertsSpec experts, read_experts(config, {.count = "num_local_experts",
                                                       .intermediate = "intermediate_size"}));
  experts.routing.renormalise = true;
  FF_TRY(set_experts(spec, experts, {}, std::vector<bool>(spec.layers.size(), true)));

  ParamNames names = hf_llama_names();
  names.router = "model.layers.{}.block_sparse_moe.gate.weight";
  names.expert = {.gate = "model.layers.{}.block_sparse_moe.experts.{}.w1.weight",
                  .up = "model.layers.{}.block_sparse_moe.experts.{}.w3.weight",
                  .down = "model.layers.{}.block_sparse_moe.experts.{}.w2.weight"};
  add_params(spec, names, /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

}  // namespace

const Family& mixtral_family() {
  // GGUF files of it are of the architecture "llama".
  static const Family kFamily = {.hf_architectures = {"MixtralForCausalLM"},
                                 .gguf_architectures = {},
                                 .from_config = from_config,
                                 .from_gguf = nullptr};
  return kFamily;
}

}  // namespace fourfold::model
