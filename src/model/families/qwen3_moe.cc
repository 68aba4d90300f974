#include "files/json.h"
#include "model/families/family.h"

namespace fourfold::model {
namespace {

constexpr std::string_view kConfig = "config.json";

void set_qk_norm(ModelSpec& spec) {
  for (LayerSpec& layer : spec.layers) layer.attention.qk_norm = true;
}

/// config.json as transformers' Qwen3MoeConfig writes it.
base::Result<ModelSpec> from_config(const nlohmann::json& config) {
  FF_ASSIGN(ModelSpec spec, read_llama_like(config, "qwen3_moe", 10000.0));
  FF_TRY(require_full_attention(config));
  set_qk_norm(spec);
  FF_ASSIGN(ExpertsSpec experts, read_experts(config, {.count = "num_experts",
                                                       .intermediate = "moe_intermediate_size"}));
  FF_ASSIGN(experts.routing.renormalise,
            files::json_get_or<bool>(config, "norm_topk_prob", false, kConfig));
  FF_ASSIGN(const std::vector<bool> sparse, read_sparse_layers(config, spec.layers.size()));
  FF_TRY(set_experts(spec, experts, {}, sparse));

  ParamNames names = hf_moe_names();
  names.query_norm = "model.layers.{}.self_attn.q_norm.weight";
  names.key_norm = "model.layers.{}.self_attn.k_norm.weight";
  add_params(spec, names, /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

base::Result<ModelSpec> from_gguf(const files::GgufFile& file) {
  FF_ASSIGN(ModelSpec spec, read_llama_like(file, "qwen3moe", "qwen3_moe"));
  set_qk_norm(spec);
  FF_ASSIGN(const ExpertsSpec experts, read_experts(file, "qwen3moe", /*renormalise=*/true));
  FF_TRY(set_experts(spec, experts, {}, std::vector<bool>(spec.layers.size(), true)));

  ParamNames names = gguf_names();
  names.query_norm = "blk.{}.attn_q_norm.weight";
  names.key_norm = "blk.{}.attn_k_norm.weight";
  add_params(spec, names, /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

}  // namespace

const Family& qwen3_moe_family() {
  static const Family kFamily = {.hf_architectures = {"Qwen3MoeForCausalLM"},
                                 .gguf_architectures = {"qwen3moe"},
                                 .from_config = from_config,
                                 .from_gguf = from_gguf};
  return kFamily;
}

}  // namespace fourfold::model
