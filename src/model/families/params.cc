#include <fmt/format.h>

#include <string>

#include "model/families/family.h"

namespace fourfold::model {
namespace {

std::string name_in_layer(std::string_view pattern, int32_t layer, int32_t expert) {
  return fmt::format(fmt::runtime(pattern), layer, expert);
}

/// Whether a pattern names one tensor for all experts of a layer.
bool is_stacked(std::string_view pattern) { return pattern.find("{}") == pattern.rfind("{}"); }

/// Writes the table of parameters of a model, part by part.
class ParamTable {
 public:
  ParamTable(ModelSpec& spec, const ParamNames& names, float norm_offset, bool interleaved)
      : spec_(spec), names_(names), norm_offset_(norm_offset), interleaved_(interleaved) {}

  void add_shared() {
    add(ParamKind::kEmbedding, names_.embedding, spec_.vocab, spec_.hidden, Cut::kRowsByVocab);
    add_norm(ParamKind::kFinalNorm, names_.final_norm, spec_.hidden);
    if (!spec_.tied_embeddings) {
      add(ParamKind::kHead, names_.head, spec_.vocab, spec_.hidden, Cut::kRowsByVocab);
    }
  }

  void add_layer(int32_t layer) {
    layer_ = layer;
    const LayerSpec& spec = spec_.layers[static_cast<size_t>(layer)];
    add_attention(spec.attention);
    add_norm(ParamKind::kMlpNorm, names_.mlp_norm, spec_.hidden);
    if (spec.experts.count > 0) add_experts(spec.experts);
    if (spec.mlp.intermediate > 0) {
      add_mlp(spec.mlp, spec.experts.count > 0 ? names_.shared_experts : names_.mlp);
    }
    add_norm(ParamKind::kPostMlpNorm, names_.post_mlp_norm, spec_.hidden);
  }

 private:
  Param& add(ParamKind kind, std::string_view name, int64_t rows, int64_t columns, Cut cut,
             int32_t expert = -1) {
    return spec_.params.emplace_back(Param{.kind = kind,
                                           .layer = layer_,
                                           .expert = expert,
                                           .name = name_in_layer(name, layer_, expert),
                                           .rows = rows,
                                           .columns = columns,
                                           .cut = cut});
  }

  void add_vector(ParamKind kind, std::string_view name, int64_t size, Cut cut) {
    if (!name.empty()) add(kind, name, 1, size, cut).is_vector = true;
  }

  void add_norm(ParamKind kind, std::string_view name, int64_t size) {
    if (name.empty()) return;
    add_vector(kind, name, size, Cut::kReplicated);
    spec_.params.back().offset = norm_offset_;
  }

  void add_attention(const AttentionSpec& a) {
    const int64_t h = spec_.hidden;
    const int64_t q = a.heads * a.head_dim;
    const int64_t kv = a.kv_heads * a.head_dim;
    const int64_t stored = interleaved_ ? a.head_dim : 0;
    add_norm(ParamKind::kAttentionNorm, names_.attention_norm, h);
    add(ParamKind::kQuery, names_.query, q, h, Cut::kRowsByHead).interleaved_head_dim = stored;
    add(ParamKind::kKey, names_.key, kv, h, Cut::kRowsByKvHead).interleaved_head_dim = stored;
    add(ParamKind::kValue, names_.value, kv, h, Cut::kRowsByKvHead);
    if (a.bias) {
      add_vector(ParamKind::kQueryBias, names_.query_bias, q, Cut::kColumnsByHead);
      add_vector(ParamKind::kKeyBias, names_.key_bias, kv, Cut::kColumnsByKvHead);
      add_vector(ParamKind::kValueBias, names_.value_bias, kv, Cut::kColumnsByKvHead);
    }
    add_norm(ParamKind::kQueryNorm, names_.query_norm, a.wide_qk_norm ? q : a.head_dim);
    add_norm(ParamKind::kKeyNorm, names_.key_norm, a.wide_qk_norm ? kv : a.head_dim);
    add(ParamKind::kOutput, names_.output, h, q, Cut::kColumnsByHead);
    add_norm(ParamKind::kPostAttentionNorm, names_.post_attention_norm, h);
  }

  void add_mlp(const MlpSpec& mlp, const MlpNames& names) {
    const int64_t h = spec_.hidden;
    add(ParamKind::kGate, names.gate, mlp.intermediate, h, Cut::kRowsByGranule);
    add(ParamKind::kUp, names.up, mlp.intermediate, h, Cut::kRowsByGranule);
    add(ParamKind::kDown, names.down, h, mlp.intermediate, Cut::kColumnsByGranule);
    if (mlp.gated) add(ParamKind::kSharedGate, names_.shared_gate, 1, h, Cut::kReplicated);
  }

  void add_experts(const ExpertsSpec& experts) {
    const int64_t h = spec_.hidden;
    const int64_t width = experts.intermediate;
    add(ParamKind::kRouter, names_.router, experts.count, h, Cut::kReplicated);
    add_vector(ParamKind::kRouterBias, names_.router_bias, experts.count, Cut::kReplicated);
    const auto add_all = [&](ParamKind kind, std::string_view name, int64_t rows, int64_t columns,
                             Cut cut) {
      for (int32_t expert = 0; expert < experts.count; ++expert) {
        Param& param = add(kind, name, rows, columns, cut, expert);
        if (!is_stacked(name)) continue;
        param.stacked = experts.count;
        param.first_row = expert * rows;
      }
    };
    add_all(ParamKind::kExpertGate, names_.expert.gate, width, h, Cut::kRowsByGranule);
    add_all(ParamKind::kExpertUp, names_.expert.up, width, h, Cut::kRowsByGranule);
    add_all(ParamKind::kExpertDown, names_.expert.down, h, width, Cut::kColumnsByGranule);
  }

  ModelSpec& spec_;
  const ParamNames& names_;
  float norm_offset_;
  bool interleaved_;
  int32_t layer_ = -1;
};

}  // namespace

ParamNames hf_llama_names() {
  ParamNames names;
  names.embedding = "model.embed_tokens.weight";
  names.final_norm = "model.norm.weight";
  names.head = "lm_head.weight";
  names.attention_norm = "model.layers.{}.input_layernorm.weight";
  names.query = "model.layers.{}.self_attn.q_proj.weight";
  names.key = "model.layers.{}.self_attn.k_proj.weight";
  names.value = "model.layers.{}.self_attn.v_proj.weight";
  names.output = "model.layers.{}.self_attn.o_proj.weight";
  names.mlp_norm = "model.layers.{}.post_attention_layernorm.weight";
  names.mlp = {.gate = "model.layers.{}.mlp.gate_proj.weight",
               .up = "model.layers.{}.mlp.up_proj.weight",
               .down = "model.layers.{}.mlp.down_proj.weight"};
  return names;
}

ParamNames hf_moe_names() {
  ParamNames names = hf_llama_names();
  names.router = "model.layers.{}.mlp.gate.weight";
  names.expert = {.gate = "model.layers.{}.mlp.experts.{}.gate_proj.weight",
                  .up = "model.layers.{}.mlp.experts.{}.up_proj.weight",
                  .down = "model.layers.{}.mlp.experts.{}.down_proj.weight"};
  return names;
}

ParamNames gguf_names() {
  ParamNames names;
  names.embedding = "token_embd.weight";
  names.final_norm = "output_norm.weight";
  names.head = "output.weight";
  names.attention_norm = "blk.{}.attn_norm.weight";
  names.query = "blk.{}.attn_q.weight";
  names.key = "blk.{}.attn_k.weight";
  names.value = "blk.{}.attn_v.weight";
  names.output = "blk.{}.attn_output.weight";
  names.mlp_norm = "blk.{}.ffn_norm.weight";
  names.mlp = {.gate = "blk.{}.ffn_gate.weight",
               .up = "blk.{}.ffn_up.weight",
               .down = "blk.{}.ffn_down.weight"};
  names.router = "blk.{}.ffn_gate_inp.weight";
  names.expert = {.gate = "blk.{}.ffn_gate_exps.weight",
                  .up = "blk.{}.ffn_up_exps.weight",
                  .down = "blk.{}.ffn_down_exps.weight"};
  names.shared_experts = {.gate = "blk.{}.ffn_gate_shexp.weight",
                          .up = "blk.{}.ffn_up_shexp.weight",
                          .down = "blk.{}.ffn_down_shexp.weight"};
  names.shared_gate = "blk.{}.ffn_gate_inp_shexp.weight";
  return names;
}

void add_params(ModelSpec& spec, const ParamNames& names, float norm_offset, bool interleaved) {
  ParamTable table(spec, names, norm_offset, interleaved);
  table.add_shared();
  for (int32_t layer = 0; layer < static_cast<int32_t>(spec.layers.size()); ++layer) {
    table.add_layer(layer);
  }
}

}  // namespace fourfold::model
