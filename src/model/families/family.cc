#include "model/families/family.h"

#include <array>
#include <cmath>
#include <limits>

#include "files/json.h"

namespace fourfold::model {
namespace {

constexpr std::string_view kConfig = "config.json";

constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxPositions = int64_t{1} << 24;

base::Status check_dimensions(const ModelSpec& spec, const AttentionSpec& a, int64_t layers,
                              int64_t intermediate) {
  for (const auto& [name, value] :
       {std::pair{"hidden size", spec.hidden}, std::pair{"vocabulary", spec.vocab},
        std::pair{"intermediate size", intermediate}, std::pair{"heads", a.heads},
        std::pair{"head dimension", a.head_dim}}) {
    FF_TRY(check_range(name, value, kMaxDimension));
  }
  FF_TRY(check_range("heads x head dimension", a.heads * a.head_dim, kMaxDimension));
  FF_TRY(check_range("number of layers", layers, kMaxLayers));
  FF_TRY(check_range("context", spec.max_positions, kMaxPositions));
  if (a.kv_heads < 1 || a.heads % a.kv_heads != 0) {
    return base::fail(
        "the model has {} attention heads and {} key-value heads: the first must be a "
        "multiple of the second",
        a.heads, a.kv_heads);
  }
  if (a.head_dim % 2 != 0 || spec.hidden % 2 != 0) {
    return base::fail("head dimension {} and hidden size {} must be even", a.head_dim, spec.hidden);
  }
  const int64_t layer_columns = 2 * (a.heads + a.kv_heads) * a.head_dim + 3 * intermediate;
  return check_range("number of parameters",
                     spec.hidden * (2 * spec.vocab + layers * layer_columns), kMaxParameters);
}

base::Result<int32_t> checked_token(int64_t id, std::string_view key, int64_t vocab,
                                    std::string_view what) {
  if (id >= 0 && id < vocab) return static_cast<int32_t>(id);
  return base::fail("expected a token id of 0 to {} for \"{}\" in {}, found {}", vocab - 1, key,
                    what, id);
}

base::Status read_tokens(const nlohmann::json& config, ModelSpec& spec) {
  FF_ASSIGN(const std::vector<int32_t> bos,
            read_token_ids(config, "bos_token_id", spec.vocab, kConfig));
  if (bos.size() > 1) {
    return base::fail("expected one \"bos_token_id\" in {}, found {}", kConfig, bos.size());
  }
  if (!bos.empty()) spec.bos_token = bos.front();
  FF_ASSIGN(spec.eos_tokens, read_token_ids(config, "eos_token_id", spec.vocab, kConfig));
  return {};
}

base::Status read_tokens(const files::GgufMetadata& metadata, ModelSpec& spec) {
  const auto token = [&](std::string_view key) -> base::Result<std::optional<int32_t>> {
    if (!metadata.contains(key)) return std::optional<int32_t>();
    FF_ASSIGN(const int64_t id, metadata.get<int64_t>(key));
    FF_ASSIGN(const int32_t checked, checked_token(id, key, spec.vocab, "the GGUF file"));
    return std::optional<int32_t>(checked);
  };
  FF_ASSIGN(spec.bos_token, token("tokenizer.ggml.bos_token_id"));
  FF_ASSIGN(const std::optional<int32_t> eos, token("tokenizer.ggml.eos_token_id"));
  FF_ASSIGN(const std::optional<int32_t> end_of_turn, token("tokenizer.ggml.eot_token_id"));
  if (eos) spec.eos_tokens.push_back(*eos);
  if (end_of_turn && end_of_turn != eos) spec.eos_tokens.push_back(*end_of_turn);
  return {};
}

/// Parts of a GGUF model that the decoder does not compute.
base::Status refuse_unsupported(const files::GgufFile& file, std::string_view arch,
                                int64_t head_dim) {
  FF_TRY(require(file, fmt::format("{}.rope.dimension_count", arch), head_dim));
  return require(file, fmt::format("{}.attention.value_length", arch), head_dim);
}

}  // namespace

std::span<const Family* const> families() {
  static const std::array kAll = {
      &llama_family(),     &gemma3_family(),   &mixtral_family(), &qwen2_moe_family(),
      &qwen3_moe_family(), &deepseek_family(), &olmoe_family(),
  };
  return kAll;
}

base::Result<ModelSpec> read_dimensions(const nlohmann::json& config) {
  FF_TRY(require(config, "partial_rotary_factor", 1));
  FF_TRY(require(config, "quantization_config", nullptr));
  ModelSpec spec;
  AttentionSpec a;
  FF_ASSIGN(spec.hidden, files::json_get_positive(config, "hidden_size", kConfig));
  FF_ASSIGN(spec.vocab, files::json_get_positive(config, "vocab_size", kConfig));
  FF_ASSIGN(spec.max_positions,
            files::json_get_positive(config, "max_position_embeddings", kConfig));
  FF_ASSIGN(const int64_t layers, files::json_get_positive(config, "num_hidden_layers", kConfig));
  FF_ASSIGN(const int64_t width, files::json_get_positive(config, "intermediate_size", kConfig));
  FF_ASSIGN(a.heads, files::json_get_positive(config, "num_attention_heads", kConfig));
  FF_ASSIGN(a.kv_heads,
            files::json_get_or<int64_t>(config, "num_key_value_heads", a.heads, kConfig));
  FF_ASSIGN(a.head_dim,
            files::json_get_or<int64_t>(config, "head_dim", spec.hidden / a.heads, kConfig));
  FF_ASSIGN(const double eps, files::json_get<double>(config, "rms_norm_eps", kConfig));
  FF_TRY(check_positive("rms_norm_eps", eps));
  spec.norm_eps = static_cast<float>(eps);
  FF_TRY(check_dimensions(spec, a, layers, width));
  FF_TRY(read_tokens(config, spec));
  a.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.head_dim)));
  spec.layers.assign(static_cast<size_t>(layers), {.attention = a, .mlp = {.intermediate = width}});
  return spec;
}

base::Result<ModelSpec> read_dimensions(const files::GgufFile& file, std::string_view arch) {
  const auto key = [arch](std::string_view name) { return fmt::format("{}.{}", arch, name); };
  ModelSpec spec;
  AttentionSpec a;
  FF_ASSIGN(spec.hidden, file.metadata.get<int64_t>(key("embedding_length")));
  FF_ASSIGN(spec.max_positions, file.metadata.get<int64_t>(key("context_length")));
  FF_ASSIGN(const int64_t layers, file.metadata.get<int64_t>(key("block_count")));
  FF_ASSIGN(const int64_t width, file.metadata.get<int64_t>(key("feed_forward_length")));
  FF_ASSIGN(a.heads, file.metadata.get<int64_t>(key("attention.head_count")));
  FF_ASSIGN(a.kv_heads, file.metadata.get_or<int64_t>(key("attention.head_count_kv"), a.heads));
  if (a.heads < 1) return base::fail("{} is {}", key("attention.head_count"), a.heads);
  FF_ASSIGN(a.head_dim,
            file.metadata.get_or<int64_t>(key("attention.key_length"), spec.hidden / a.heads));
  FF_ASSIGN(const double eps, file.metadata.get<double>(key("attention.layer_norm_rms_epsilon")));
  FF_TRY(check_positive("attention.layer_norm_rms_epsilon", eps));
  spec.norm_eps = static_cast<float>(eps);

  const files::TensorEntry* embedding = file.tensors.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return base::fail("the GGUF file has no matrix token_embd.weight");
  }
  spec.vocab = embedding->shape[0];
  spec.tied_embeddings = file.tensors.find("output.weight") == nullptr;
  FF_TRY(check_dimensions(spec, a, layers, width));
  FF_TRY(refuse_unsupported(file, arch, a.head_dim));
  FF_TRY(read_tokens(file.metadata, spec));
  a.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.head_dim)));
  spec.layers.assign(static_cast<size_t>(layers), {.attention = a, .mlp = {.intermediate = width}});
  return spec;
}

base::Result<ModelSpec> read_llama_like(const nlohmann::json& config, std::string_view family,
                                        double default_theta) {
  FF_TRY(require(config, "hidden_act", "silu"));
  FF_TRY(require(config, "attention_bias", false));
  FF_TRY(require(config, "mlp_bias", false));
  FF_ASSIGN(ModelSpec spec, read_dimensions(config));
  spec.family = family;
  FF_ASSIGN(spec.tied_embeddings,
            files::json_get_or<bool>(config, "tie_word_embeddings", false, kConfig));
  nlohmann::json parameters = config.value("rope_parameters", nlohmann::json());
  if (parameters.is_null()) parameters = config.value("rope_scaling", nlohmann::json());
  FF_ASSIGN(const RopeSpec rope, read_rope(config, parameters, default_theta));
  spec.ropes = {rope};
  return spec;
}

base::Result<ModelSpec> read_llama_like(const files::GgufFile& file, std::string_view arch,
                                        std::string_view family) {
  const auto key = [arch](std::string_view name) { return fmt::format("{}.{}", arch, name); };
  FF_TRY(require<std::string_view>(file, key("rope.scaling.type"), "none"));
  FF_TRY(require(file, key("rope.scaling.factor"), 1.0));
  FF_TRY(require(file, key("rope.scale_linear"), 1.0));
  FF_TRY(require<int64_t>(file, key("attention.sliding_window"), 0));
  if (file.tensors.find("rope_freqs.weight") != nullptr) {
    return base::fail(
        "the GGUF file scales its rotary frequencies (rope_freqs.weight), which is not "
        "supported: use the model's Hugging Face folder");
  }
  FF_ASSIGN(ModelSpec spec, read_dimensions(file, arch));
  spec.family = family;
  RopeSpec rope;
  FF_ASSIGN(rope.theta, file.metadata.get_or<double>(key("rope.freq_base"), 10000.0));
  FF_TRY(check_positive(key("rope.freq_base"), rope.theta));
  spec.ropes = {rope};
  return spec;
}

base::Status read_window(const nlohmann::json& config, ModelSpec& spec) {
  FF_ASSIGN(const int64_t window,
            files::json_get_or<int64_t>(config, "sliding_window", 0, kConfig));
  if (window < 0) return base::fail("\"sliding_window\" in {} is {}", kConfig, window);
  for (LayerSpec& layer : spec.layers) layer.attention.window = window;
  return {};
}

base::Status require_full_attention(const nlohmann::json& config) {
  FF_TRY(require(config, "use_sliding_window", false));
  for (const nlohmann::json& type : config.value("layer_types", nlohmann::json())) {
    FF_TRY(require(nlohmann::json{{"layer_types", type}}, "layer_types", "full_attention"));
  }
  return {};
}

base::Result<RopeSpec> read_rope(const nlohmann::json& config, const nlohmann::json& parameters,
                                 double default_theta) {
  if (!parameters.is_object() && !parameters.is_null()) {
    return base::fail("expected an object for the rope parameters in {}, found {}", kConfig,
                      parameters.dump());
  }
  FF_TRY(require(parameters, "partial_rotary_factor", 1));
  RopeSpec rope;
  FF_ASSIGN(rope.theta, files::json_get_or<double>(config, "rope_theta", default_theta, kConfig));
  FF_ASSIGN(rope.theta, files::json_get_or<double>(parameters, "rope_theta", rope.theta, kConfig));
  FF_TRY(check_positive("rope_theta", rope.theta));
  FF_ASSIGN(const std::string old_type,
            files::json_get_or<std::string>(parameters, "type", "default", kConfig));
  FF_ASSIGN(const std::string type,
            files::json_get_or<std::string>(parameters, "rope_type", old_type, kConfig));
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3") {
    return base::fail(
        "rope scaling \"{}\" in {} is not supported: expected default, linear or "
        "llama3",
        type, kConfig);
  }
  FF_ASSIGN(rope.factor, files::json_get<double>(parameters, "factor", kConfig));
  FF_TRY(check_positive("rope factor", rope.factor));
  rope.scaling = RopeSpec::Scaling::kLinear;
  if (type == "llama3") {
    rope.scaling = RopeSpec::Scaling::kLlama3;
    FF_ASSIGN(rope.low_freq_factor,
              files::json_get<double>(parameters, "low_freq_factor", kConfig));
    FF_ASSIGN(rope.high_freq_factor,
              files::json_get<double>(parameters, "high_freq_factor", kConfig));
    FF_TRY(check_positive("low_freq_factor", rope.low_freq_factor));
    FF_TRY(check_positive("high_freq_factor", rope.high_freq_factor));
    if (rope.low_freq_factor >= rope.high_freq_factor) {
      return base::fail(
          "expected a \"low_freq_factor\" below the \"high_freq_factor\" in {}, "
          "found {} and {}",
          kConfig, rope.low_freq_factor, rope.high_freq_factor);
    }
    FF_ASSIGN(rope.original_max_positions,
              files::json_get_positive(parameters, "original_max_position_embeddings", kConfig));
  }
  return rope;
}

base::Status check_range(std::string_view name, int64_t value, int64_t max) {
  if (value >= 1 && value <= max) return {};
  return base::fail("the model's {} is {}, expected 1 to {}", name, value, max);
}

base::Status check_positive(std::string_view name, double value) {
  // The decoder computes in fp32.
  if (value >= std::numeric_limits<float>::min() && value <= std::numeric_limits<float>::max()) {
    return {};
  }
  return base::fail("the model's {} is {}, expected a positive number", name, value);
}

base::Result<std::vector<int32_t>> read_token_ids(const nlohmann::json& config,
                                                  std::string_view key, int64_t vocab,
                                                  std::string_view what) {
  std::vector<int32_t> out;
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return out;
  for (const nlohmann::json& id : it->is_array() ? *it : nlohmann::json::array({*it})) {
    // Wrapped, so that the checked reader of integers can be asked for it.
    FF_ASSIGN(const int64_t value,
              files::json_get<int64_t>(nlohmann::json{{std::string(key), id}}, key, what));
    FF_ASSIGN(out.emplace_back(), checked_token(value, key, vocab, what));
  }
  return out;
}

base::Status require(const nlohmann::json& config, std::string_view key,
                     const nlohmann::json& expected) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null() || *it == expected) return {};
  return base::fail("\"{}\": {} in {} is not supported, only {} is", key, it->dump(), kConfig,
                    expected.dump());
}

}  // namespace fourfold::model
