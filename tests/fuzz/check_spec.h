#pragma once

#include <cmath>
#include <string_view>
#include <unordered_map>

#include "base/check.h"
#include "model/spec.h"

namespace fourfold::fuzz {

/// What must hold of any model description that was accepted: whatever is sized by it is a possible
/// size, and what is computed from it is finite.
inline void check_spec(const model::ModelSpec& spec) {
  CHECK(!spec.layers.empty() && !spec.params.empty(), "{} layers", spec.layers.size());
  CHECK(std::isfinite(spec.norm_eps) && spec.norm_eps > 0, "norm_eps {}", spec.norm_eps);
  CHECK(std::isfinite(spec.embedding_scale), "embedding scale {}", spec.embedding_scale);
  for (const model::LayerSpec& layer : spec.layers) {
    const model::AttentionSpec& a = layer.attention;
    CHECK(a.rope >= 0 && a.rope < std::ssize(spec.ropes), "rope {}", a.rope);
    CHECK(std::isfinite(a.scale) && a.scale > 0, "the scores' scale {}", a.scale);
    CHECK(a.window >= 0 && a.heads % a.kv_heads == 0, "window {}", a.window);
    const model::ExpertsSpec& e = layer.experts;
    CHECK(
        e.count == 0 || (e.intermediate > 0 && e.routing.top_k >= 1 && e.routing.top_k <= e.count),
        "{} of {} experts of {}", e.routing.top_k, e.count, e.intermediate);
    CHECK(e.count > 0 || layer.mlp.intermediate > 0, "a layer without MLP and experts");
    CHECK(std::isfinite(e.routing.scale), "the scale of the experts {}", e.routing.scale);
  }
  for (const model::RopeSpec& rope : spec.ropes) {
    for (const float f : model::rope_frequencies(rope, spec.layers[0].attention.head_dim)) {
      CHECK(std::isfinite(f) && f >= 0, "a rotary frequency of {}", f);
    }
  }
  std::unordered_map<std::string_view, int64_t> next_row;  // of each tensor
  for (const model::Param& param : spec.params) {
    CHECK(param.rows > 0 && param.columns > 0, "{} is {} x {}", param.name, param.rows,
          param.columns);
    // Parameters that share a tensor lie in it one after another.
    int64_t& row = next_row[param.name];
    CHECK(param.first_row == row, "{} begins at row {}, not {}", param.name, param.first_row, row);
    row += param.rows;
    CHECK(row <= param.stacked * param.rows, "{} stands twice", param.name);
  }
  CHECK(spec.parameter_count() > 0, "{} parameters", spec.parameter_count());
  for (const int32_t token : spec.eos_tokens) {
    CHECK(token >= 0 && token < spec.vocab, "the end token {} of {}", token, spec.vocab);
  }
  // A layout that the mesh calls legal can be cut.
  for (const int tp : {1, 2, 8}) {
    if (!mesh::Mesh::create({.tp = tp}, spec.divisors()).ok()) continue;
    for (const model::Param& param : spec.params) {
      for (const int shard : {0, tp - 1}) {
        const model::ParamShard part = model::shard_of(spec, param, tp, shard);
        CHECK(part.rows.begin >= 0 && part.rows.end <= param.rows && part.columns.begin >= 0 &&
                  part.columns.end <= param.columns,
              "shard {} of {} of {}", shard, tp, param.name);
      }
      if (param.layer > 0) break;  // The layers are alike.
    }
  }
}

}  // namespace fourfold::fuzz
