#include "files/json.h"
#include "model/families/family.h"

namespace fourfold::model {
namespace {

constexpr std::string_view kConfig = "config.json";
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxExpertsWidth = int64_t{1} << 24;  // of all experts of a layer together
constexpr int64_t kMatrices = 3;                        // of one expert
/// Of all layers: each takes a parameter's description. 61 layers of 384 experts have 70,000.
constexpr int64_t kMaxMatrices = int64_t{1} << 17;

base::Status check_experts(const ModelSpec& spec, const ExpertsSpec& experts, int64_t layers) {
  FF_TRY(check_range("number of experts", experts.count, kMaxExperts));
  FF_TRY(check_range("experts of a token", experts.routing.top_k, experts.count));
  FF_TRY(check_range("width of an expert", experts.intermediate, kMaxDimension));
  const int64_t width = experts.count * experts.intermediate;
  FF_TRY(check_range("experts x their width", width, kMaxExpertsWidth));
  FF_TRY(check_range("number of parameters", layers * kMatrices * width * spec.hidden,
                     kMaxParameters));
  return check_range("number of matrices of experts", layers * kMatrices * experts.count,
                     kMaxMatrices);
}

}  // namespace

base::Result<ExpertsSpec> read_experts(const nlohmann::json& config, const ExpertKeys& keys) {
  ExpertsSpec experts;
  FF_ASSIGN(experts.count, files::json_get_positive(config, keys.count, kConfig));
  FF_ASSIGN(experts.intermediate, files::json_get_positive(config, keys.intermediate, kConfig));
  FF_ASSIGN(experts.routing.top_k,
            files::json_get_positive(config, "num_experts_per_tok", kConfig));
  return experts;
}

base::Result<ExpertsSpec> read_experts(const files::GgufFile& file, std::string_view arch,
                                       bool renormalise) {
  const auto key = [arch](std::string_view name) { return fmt::format("{}.{}", arch, name); };
  constexpr int64_t kSoftmax = 1;
  ExpertsSpec experts;
  FF_ASSIGN(experts.count, file.metadata.get_or<int64_t>(key("expert_count"), 0));
  if (experts.count == 0) return experts;
  FF_TRY(require(file, key("expert_gating_func"), kSoftmax));
  FF_TRY(require(file, key("expert_weights_norm"), renormalise));
  FF_TRY(require<int64_t>(file, key("expert_group_count"), 1));
  FF_ASSIGN(experts.routing.top_k, file.metadata.get<int64_t>(key("expert_used_count")));
  FF_ASSIGN(const int64_t width, file.metadata.get<int64_t>(key("feed_forward_length")));
  FF_ASSIGN(experts.intermediate,
            file.metadata.get_or<int64_t>(key("expert_feed_forward_length"), width));
  FF_ASSIGN(const double scale, file.metadata.get_or<double>(key("expert_weights_scale"), 1.0));
  FF_TRY(check_positive(key("expert_weights_scale"), scale));
  experts.routing.renormalise = renormalise;
  experts.routing.scale = static_cast<float>(scale);
  return experts;
}

base::Result<std::vector<bool>> read_sparse_layers(const nlohmann::json& config, size_t layers) {
  FF_ASSIGN(const int64_t step,
            files::json_get_or<int64_t>(config, "decoder_sparse_step", 1, kConfig));
  FF_TRY(check_range("decoder_sparse_step", step, kMaxDimension));
  std::vector<bool> sparse(layers);
  for (size_t i = 0; i < layers; ++i) sparse[i] = (i + 1) % static_cast<size_t>(step) == 0;

  const nlohmann::json dense = config.value("mlp_only_layers", nlohmann::json());
  if (!dense.is_null() && !dense.is_array()) {
    return base::fail("expected a list for \"mlp_only_layers\" in {}, found {}", kConfig,
                      dense.dump());
  }
  for (const nlohmann::json& layer : dense) {
    const bool is_layer = layer.is_number_integer() && layer >= 0 && layer < layers;
    if (!is_layer) {
      return base::fail("expected layers of 0 to {} in \"mlp_only_layers\" of {}, found {}",
                        layers - 1, kConfig, layer.dump());
    }
    sparse[layer.get<size_t>()] = false;
  }
  return sparse;
}

base::Status set_experts(ModelSpec& spec, const ExpertsSpec& experts, const MlpSpec& shared,
                         const std::vector<bool>& sparse) {
  FF_TRY(check_experts(spec, experts, std::ssize(spec.layers)));
  if (shared.intermediate != 0) {
    FF_TRY(check_range("width of the shared experts", shared.intermediate, kMaxDimension));
  }
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    if (!sparse[i]) continue;
    spec.layers[i].experts = experts;
    spec.layers[i].mlp = shared;
  }
  return {};
}

}  // namespace fourfold::model
