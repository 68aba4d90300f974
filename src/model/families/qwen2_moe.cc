#include "files/json.h"
#include "model/families/family.h"

namespace fourfold::model {
namespace {

constexpr std::string_view kConfig = "config.json";

void set_bias(ModelSpec& spec, bool bias) {
  for (LayerSpec& layer : spec.layers) layer.attention.bias = bias;
}

/// config.json as transformers' Qwen2MoeConfig writes it.
base::Result<ModelSpec> from_config(const nlohmann::json& config) {
  FF_ASSIGN(ModelSpec spec, read_llama_like(config, "qwen2_moe", 10000.0));
  FF_TRY(require_full_attention(config));
  FF_ASSIGN(const bool bias, files::json_get_or<bool>(config, "qkv_bias", true, kConfig));
  set_bias(spec, bias);
  FF_ASSIGN(ExpertsSpec experts, read_experts(config, {.count = "num_experts",
                                                       .intermediate = "moe_intermediate_size"}));
  FF_ASSIGN(experts.routing.renormalise,
            files::json_get_or<bool>(config, "norm_topk_prob", false, kConfig));
  MlpSpec shared{.gated = true};
  FF_ASSIGN(shared.intermediate,
            files::json_get_positive(config, "shared_expert_intermediate_size", kConfig));
  FF_ASSIGN(const std::vector<bool> sparse, read_sparse_layers(config, spec.layers.size()));
  FF_TRY(set_experts(spec, experts, shared, sparse));

  ParamNames names = hf_moe_names();
  names.query_bias = "model.layers.{}.self_attn.q_proj.bias";
  names.key_bias = "model.layers.{}.self_attn.k_proj.bias";
  names.value_bias = "model.layers.{}.self_attn.v_proj.bias";
  names.shared_experts = {.gate = "model.layers.{}.mlp.shared_expert.gate_proj.weight",
                          .up = "model.layers.{}.mlp.shared_expert.up_proj.weight",
                          .down = "model.layers.{}.mlp.shared_expert.down_proj.weight"};
  names.shared_gate = "model.layers.{}.mlp.shared_expert_gate.weight";
  add_params(spec, names, /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

base::Result<ModelSpec> from_gguf(const files::GgufFile& file) {
  FF_ASSIGN(ModelSpec spec, read_llama_like(file, "qwen2moe", "qwen2_moe"));
  set_bias(spec, true);
  FF_ASSIGN(const ExpertsSpec experts, read_experts(file, "qwen2moe", /*renormalise=*/false));
  MlpSpec shared{.intermediate = spec.layers.front().mlp.intermediate, .gated = true};
  FF_ASSIGN(shared.intermediate,
            file.metadata.get_or<int64_t>("qwen2moe.expert_shared_feed_forward_length",
                                          shared.intermediate));
  FF_TRY(set_experts(spec, experts, shared, std::vector<bool>(spec.layers.size(), true)));

  ParamNames names = gguf_names();
  names.query_bias = "blk.{}.attn_q.bias";
  names.key_bias = "blk.{}.attn_k.bias";
  names.value_bias = "blk.{}.attn_v.bias";
  add_params(spec, names, /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

}  // namespace

const Family& qwen2_moe_family() {
  static const Family kFamily = {.hf_architectures = {"Qwen2MoeForCausalLM"},
                                 .gguf_architectures = {"qwen2moe"},
                                 .from_config = from_config,
                                 .from_gguf = from_gguf};
  return kFamily;
}

}  // namespace fourfold::model
