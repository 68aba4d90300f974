#include "files/json.h"
#include "model/families/family.h"

namespace fourfold::model {
namespace {

constexpr std::string_view kConfig = "config.json";

void set_qk_norm(ModelSpec& spec) {
  for (LayerSpec& layer : spec.layers) layer.attention.wide_qk_norm = true;
}

/// config.json as transformers' OlmoeConfig writes it.
base::Result<ModelSpec> from_config(const nlohmann::json& config) {
  FF_TRY(require(config, "clip_qkv", nullptr));
  FF_TRY(require(config, "sliding_window", nullptr));
  FF_ASSIGN(ModelSpec spec, read_llama_like(config, "olmoe", 10000.0));
  set_qk_norm(spec);
  FF_ASSIGN(ExpertsSpec experts,
            read_experts(config, {.count = "num_experts", .intermediate = "intermediate_size"}));
  FF_ASSIGN(experts.routing.renormalise,
            files::json_get_or<bool>(config, "norm_topk_prob", false, kConfig));
  FF_TRY(set_experts(spec, experts, {}, std::vector<bool>(spec.layers.size(), true)));

  ParamNames names = hf_moe_names();
  names.query_norm = "model.layers.{}.self_attn.q_norm.weight";
  names.key_norm = "model.layers.{}.self_attn.k_norm.weight";
  add_params(spec, names, /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

base::Result<ModelSpec> from_gguf(const files::GgufFile& file) {
  FF_TRY(require(file, "olmoe.attention.clamp_kqv", 0.0));
  FF_ASSIGN(ModelSpec spec, read_llama_like(file, "olmoe", "olmoe"));
  set_qk_norm(spec);
  FF_ASSIGN(const ExpertsSpec experts, read_experts(file, "olmoe", /*renormalise=*/false));
  FF_TRY(set_experts(spec, experts, {}, std::vector<bool>(spec.layers.size(), true)));

  ParamNames names = gguf_names();
  names.query_norm = "blk.{}.attn_q_norm.weight";
  names.key_norm = "blk.{}.attn_k_norm.weight";
  add_params(spec, names, /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

}  // namespace

const Family& olmoe_family() {
  static const Family kFamily = {.hf_architectures = {"OlmoeForCausalLM"},
                                 .gguf_architectures = {"olmoe"},
                                 .from_config = from_config,
                                 .from_gguf = from_gguf};
  return kFamily;
}

}  // namespace fourfold::model
