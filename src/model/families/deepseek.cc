#include "files/json.h"
#include "model/families/family.h"

namespace fourfold::model {
namespace {

constexpr std::string_view kConfig = "config.json";

/// DeepSeek-MoE, the first generation: config.json as the hub's own code reads it
/// (deepseek-ai/deepseek-moe-16b-base). Scores are those of a softmax; the first layers are dense.
base::Result<ModelSpec> from_config(const nlohmann::json& config) {
  FF_TRY(require(config, "scoring_func", "softmax"));
  FF_TRY(require(config, "topk_method", "greedy"));
  FF_TRY(require(config, "n_group", 1));
  FF_TRY(require(config, "sliding_window", nullptr));
  FF_ASSIGN(ModelSpec spec, read_llama_like(config, "deepseek", 10000.0));
  FF_ASSIGN(ExpertsSpec experts, read_experts(config, {.count = "n_routed_experts",
                                                       .intermediate = "moe_intermediate_size"}));
  FF_ASSIGN(experts.routing.renormalise,
            files::json_get_or<bool>(config, "norm_topk_prob", false, kConfig));
  FF_ASSIGN(const double scale,
            files::json_get_or<double>(config, "routed_scaling_factor", 1.0, kConfig));
  FF_TRY(check_positive("routed_scaling_factor", scale));
  experts.routing.scale = static_cast<float>(scale);

  FF_ASSIGN(const int64_t shared,
            files::json_get_or<int64_t>(config, "n_shared_experts", 0, kConfig));
  if (shared != 0) FF_TRY(check_range("n_shared_experts", shared, kMaxDimension));
  FF_TRY(check_range("moe_intermediate_size", experts.intermediate, kMaxDimension));
  FF_ASSIGN(const int64_t dense,
            files::json_get_or<int64_t>(config, "first_k_dense_replace", 0, kConfig));
  FF_ASSIGN(const int64_t step, files::json_get_or<int64_t>(config, "moe_layer_freq", 1, kConfig));
  FF_TRY(check_range("moe_layer_freq", step, kMaxDimension));
  std::vector<bool> sparse;
  for (int64_t i = 0; i < std::ssize(spec.layers); ++i) {
    sparse.push_back(i >= dense && i % step == 0);
  }
  FF_TRY(set_experts(spec, experts, {.intermediate = shared * experts.intermediate}, sparse));

  ParamNames names = hf_moe_names();
  names.shared_experts = {.gate = "model.layers.{}.mlp.shared_experts.gate_proj.weight",
                          .up = "model.layers.{}.mlp.shared_experts.up_proj.weight",
                          .down = "model.layers.{}.mlp.shared_experts.down_proj.weight"};
  add_params(spec, names, /*norm_offset=*/0, /*interleaved=*/false);
  return spec;
}

base::Result<ModelSpec> from_gguf(const files::GgufFile& file) {
  FF_ASSIGN(ModelSpec spec, read_llama_like(file, "deepseek", "deepseek"));
  FF_ASSIGN(const ExpertsSpec experts, read_experts(file, "deepseek", /*renormalise=*/false));
  FF_TRY(check_range("deepseek.expert_feed_forward_length", experts.intermediate, kMaxDimension));
  FF_ASSIGN(const int64_t shared, file.metadata.get_or<int64_t>("deepseek.expert_shared_count", 0));
  if (shared != 0) FF_TRY(check_range("deepseek.expert_shared_count", shared, kMaxDimension));
  FF_ASSIGN(const int64_t dense,
            file.metadata.get_or<int64_t>("deepseek.leading_dense_block_count", 0));
  std::vector<bool> sparse;
  for (int64_t i = 0; i < std::ssize(spec.layers); ++i) sparse.push_back(i >= dense);
  FF_TRY(set_experts(spec, experts, {.intermediate = shared * experts.intermediate}, sparse));
  // The converter interleaves the rows of each query and key head for its own rotary order.
  add_params(spec, gguf_names(), /*norm_offset=*/0, /*interleaved=*/true);
  return spec;
}

}  // namespace

const Family& deepseek_family() {
  static const Family kFamily = {.hf_architectures = {"DeepseekForCausalLM"},
                                 .gguf_architectures = {"deepseek"},
                                 .from_config = from_config,
                                 .from_gguf = from_gguf};
  return kFamily;
}

}  // namespace fourfold::model
