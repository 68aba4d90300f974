#include "model/families/family.h"

#include <array>
#include <cmath>
#include <limits>

#include "files/json.h"

namespace fourfold::model {
namespace {

constexpr std::string_view kConfig = "config.json";

/// Nothing in a model's description may be absurd before anything is sized by it. Within these
/// limits no product of sizes (of a matrix, a KV block, the activations of a step) overflows.
constexpr int64_t kMaxDimension = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxPositions = int64_t{1} << 24;
constexpr int64_t kMaxParameters = int64_t{1} << 46;

base::Status check_range(std::string_view name, int64_t value, int64_t max) {
  if (value >= 1 && value <= max) return {};
  return base::fail("the model's {} is {}, expected 1 to {}", name, value, max);
}

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

std::string layer_name(std::string_view pattern, int32_t layer) {
  return fmt::format(fmt::runtime(pattern), layer);
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
  FF_TRY(require(file, fmt::format("{}.attention.value_length", arch), head_dim));
  for (const files::TensorEntry& entry : file.tensors.entries()) {
    if (entry.name.ends_with(".bias")) {
      return base::fail("the GGUF file has a tensor \"{}\": biases are not supported", entry.name);
    }
  }
  return {};
}

}  // namespace

std::span<const Family* const> families() {
  static const std::array<const Family*, 2> kAll = {&llama_family(), &gemma3_family()};
  return kAll;
}

ParamNames hf_llama_names() {
  return {.embedding = "model.embed_tokens.weight",
          .final_norm = "model.norm.weight",
          .head = "lm_head.weight",
          .attention_norm = "model.layers.{}.input_layernorm.weight",
          .query = "model.layers.{}.self_attn.q_proj.weight",
          .key = "model.layers.{}.self_attn.k_proj.weight",
          .value = "model.layers.{}.self_attn.v_proj.weight",
          .query_norm = "",
          .key_norm = "",
          .output = "model.layers.{}.self_attn.o_proj.weight",
          .post_attention_norm = "",
          .mlp_norm = "model.layers.{}.post_attention_layernorm.weight",
          .gate = "model.layers.{}.mlp.gate_proj.weight",
          .up = "model.layers.{}.mlp.up_proj.weight",
          .down = "model.layers.{}.mlp.down_proj.weight",
          .post_mlp_norm = ""};
}

ParamNames gguf_names() {
  return {.embedding = "token_embd.weight",
          .final_norm = "output_norm.weight",
          .head = "output.weight",
          .attention_norm = "blk.{}.attn_norm.weight",
          .query = "blk.{}.attn_q.weight",
          .key = "blk.{}.attn_k.weight",
          .value = "blk.{}.attn_v.weight",
          .query_norm = "",
          .key_norm = "",
          .output = "blk.{}.attn_output.weight",
          .post_attention_norm = "",
          .mlp_norm = "blk.{}.ffn_norm.weight",
          .gate = "blk.{}.ffn_gate.weight",
          .up = "blk.{}.ffn_up.weight",
          .down = "blk.{}.ffn_down.weight",
          .post_mlp_norm = ""};
}

void add_params(ModelSpec& spec, const ParamNames& names, float norm_offset, bool interleaved) {
  const auto add = [&spec](ParamKind kind, int32_t layer, std::string_view name, int64_t rows,
                           int64_t columns, Cut cut) -> Param& {
    return spec.params.emplace_back(Param{.kind = kind,
                                          .layer = layer,
                                          .name = layer_name(name, layer),
                                          .rows = rows,
                                          .columns = columns,
                                          .cut = cut});
  };
  const auto add_norm = [&](ParamKind kind, int32_t layer, std::string_view name, int64_t size) {
    if (name.empty()) return;
    Param& param = add(kind, layer, name, 1, size, Cut::kReplicated);
    param.is_vector = true;
    param.offset = norm_offset;
  };

  const int64_t h = spec.hidden;
  add(ParamKind::kEmbedding, -1, names.embedding, spec.vocab, h, Cut::kRowsByVocab);
  add_norm(ParamKind::kFinalNorm, -1, names.final_norm, h);
  if (!spec.tied_embeddings)
    add(ParamKind::kHead, -1, names.head, spec.vocab, h, Cut::kRowsByVocab);
  for (int32_t i = 0; i < static_cast<int32_t>(spec.layers.size()); ++i) {
    const AttentionSpec& a = spec.layers[static_cast<size_t>(i)].attention;
    const int64_t width = spec.layers[static_cast<size_t>(i)].mlp.intermediate;
    const int64_t q = a.heads * a.head_dim;
    const int64_t kv = a.kv_heads * a.head_dim;
    const int64_t stored = interleaved ? a.head_dim : 0;
    add_norm(ParamKind::kAttentionNorm, i, names.attention_norm, h);
    add(ParamKind::kQuery, i, names.query, q, h, Cut::kRowsByHead).interleaved_head_dim = stored;
    add(ParamKind::kKey, i, names.key, kv, h, Cut::kRowsByKvHead).interleaved_head_dim = stored;
    add(ParamKind::kValue, i, names.value, kv, h, Cut::kRowsByKvHead);
    add_norm(ParamKind::kQueryNorm, i, names.query_norm, a.head_dim);
    add_norm(ParamKind::kKeyNorm, i, names.key_norm, a.head_dim);
    add(ParamKind::kOutput, i, names.output, h, q, Cut::kColumnsByHead);
    add_norm(ParamKind::kPostAttentionNorm, i, names.post_attention_norm, h);
    add_norm(ParamKind::kMlpNorm, i, names.mlp_norm, h);
    add(ParamKind::kGate, i, names.gate, width, h, Cut::kRowsByGranule);
    add(ParamKind::kUp, i, names.up, width, h, Cut::kRowsByGranule);
    add(ParamKind::kDown, i, names.down, h, width, Cut::kColumnsByGranule);
    add_norm(ParamKind::kPostMlpNorm, i, names.post_mlp_norm, h);
  }
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
  spec.layers.assign(static_cast<size_t>(layers),
                     {.attention = a, .mlp = {.intermediate = width}, .post_norms = false});
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
  spec.layers.assign(static_cast<size_t>(layers),
                     {.attention = a, .mlp = {.intermediate = width}, .post_norms = false});
  return spec;
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
