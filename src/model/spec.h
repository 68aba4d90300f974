#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "base/result.h"
#include "mesh/mesh.h"
#include "mesh/placement.h"
#include "model/dummy_routing.h"

namespace fourfold::model {

/// Rotary embedding frequencies of one kind of layer.
struct RopeSpec {
  enum class Scaling { kNone, kLinear, kLlama3 };
  double theta = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;        ///< llama3
  double high_freq_factor = 4.0;       ///< llama3
  int64_t original_max_positions = 0;  ///< llama3

  bool operator==(const RopeSpec&) const = default;
};

struct AttentionSpec {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 0;       ///< of the scores
  int64_t window = 0;    ///< 0: full
  bool qk_norm = false;  ///< RMS norm of each query and key head
  /// RMS norm of all query heads together and of all key heads together, instead.
  bool wide_qk_norm = false;
  bool bias = false;  ///< of query, key and value
  int32_t rope = 0;   ///< index into ModelSpec::ropes
};

/// The part of a layer after attention that every row takes: all of it in a dense layer, the shared
/// experts beside others.
struct MlpSpec {
  int64_t intermediate = 0;  ///< 0: the layer has none
  backend::Activation activation = backend::Activation::kSilu;
  bool gated = false;  ///< beside experts: its output times sigmoid(x · kSharedGate)
};

/// The part of a layer after attention of which each row takes the few experts that it chooses.
struct ExpertsSpec {
  int64_t count = 0;         ///< 0: the layer has none
  int64_t intermediate = 0;  ///< of one expert
  backend::Activation activation = backend::Activation::kSilu;
  backend::Routing routing;
  DummyRouting dummy_routing;  ///< of a model whose weights are made up
};

struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
  ExpertsSpec experts;
  bool post_norms = false;  ///< a norm on the output of attention and of the MLP, too
};

enum class ParamKind {
  kEmbedding,
  kFinalNorm,
  kHead,
  kAttentionNorm,
  kQuery,
  kKey,
  kValue,
  kQueryBias,
  kKeyBias,
  kValueBias,
  kQueryNorm,
  kKeyNorm,
  kOutput,
  kPostAttentionNorm,
  kMlpNorm,
  kGate,
  kUp,
  kDown,
  kPostMlpNorm,
  kSharedGate,
  kRouter,
  kRouterBias,
  kExpertGate,
  kExpertUp,
  kExpertDown,
};

/// How tensor parallelism cuts a parameter: one of an expert over its etp shards, any other over
/// the tp shards.
enum class Cut {
  kReplicated,
  kRowsByVocab,
  kRowsByHead,
  kRowsByKvHead,
  kRowsByGranule,
  kColumnsByHead,
  kColumnsByKvHead,
  kColumnsByGranule,
};

/// One parameter: where it is in the file, its shape there, and how it is cut.
struct Param {
  ParamKind kind = ParamKind::kEmbedding;
  int32_t layer = -1;   ///< -1: not of a layer
  int32_t expert = -1;  ///< -1: not of an expert
  std::string name;     ///< in the file
  /// How many parameters of this shape the file's tensor stacks: [stacked, rows, columns]. 1: it is
  /// this one alone.
  int64_t stacked = 1;
  int64_t first_row = 0;  ///< of the tensor, seen as a matrix, at which this one begins
  int64_t rows = 0;       ///< [rows, columns] as a Linear
  int64_t columns = 0;
  Cut cut = Cut::kReplicated;
  float offset = 0;  ///< added to each element when read (Gemma stores gain - 1)
  /// Rows of each head are stored interleaved (GGUF of Llama): file row 2i is row i, 2i + 1 is row
  /// i + head_dim/2. 0: not interleaved, else head_dim.
  int64_t interleaved_head_dim = 0;
  /// The gain of a norm or a bias, [1, columns]. A matrix may have one row, too.
  bool is_vector = false;
};

/// Width of a granule of the MLP's intermediate dimension (docs/numerics.md).
inline constexpr int64_t kGranule = 32;

/// A model as data: the loader, the decoder, the memory plan and the tests read this one object.
struct ModelSpec {
  std::string family;  ///< "llama", "qwen3_moe"
  int64_t hidden = 0;
  int64_t vocab = 0;
  int64_t max_positions = 0;
  float norm_eps = 0;
  float embedding_scale = 1.0F;
  bool tied_embeddings = false;  ///< the head is the embedding table
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;
  std::vector<Param> params;  ///< the shared ones first, then layer after layer
  std::optional<int32_t> bos_token;
  std::vector<int32_t> eos_tokens;

  const Param& param(ParamKind kind, int32_t layer = -1, int32_t expert = -1) const;
  bool has(ParamKind kind, int32_t layer = -1, int32_t expert = -1) const;
  /// Of every layer that has experts; 0: a dense model.
  int64_t experts() const;
  mesh::ModelDivisors divisors() const;
  int64_t parameter_count() const;
};

/// What one rank holds of a model: the layers of its stage, cut for its shard, and of their experts
/// those of its expert shard.
struct RankShare {
  int pp = 1;
  int stage = 0;
  int tp = 1;
  int shard = 0;
  int etp = 1;
  int expert_shard = 0;          ///< of the etp shards of each expert
  std::vector<int64_t> experts;  ///< rising; a position here is the local index of an expert
};
RankShare share_of(const mesh::Mesh& mesh, int rank);

/// The part of a parameter that one shard holds, in the parameter's coordinates.
struct ParamShard {
  mesh::Range rows;
  mesh::Range columns;
  /// For backend::MatrixShape: this shard's reduction slices along its columns.
  std::vector<int64_t> slice_ends;

  backend::MatrixShape shape() const {
    return {.rows = rows.size(), .columns = columns.size(), .slice_ends = slice_ends};
  }
};
/// Of shard `shard` of `tp`; for a parameter of an expert, of shard `shard` of etp = `tp`.
ParamShard shard_of(const ModelSpec& spec, const Param& param, int tp, int shard);
/// Nothing where the rank holds no part of it.
std::optional<ParamShard> shard_of(const ModelSpec& spec, const Param& param,
                                   const RankShare& share);

/// Rows of the vocabulary that a shard's logits hold, padding included: the same for every shard.
int64_t vocab_shard_rows(const ModelSpec& spec, int tp);

/// Query heads and key heads of one shard. Where tp exceeds kv_heads a key head is held by several.
mesh::Range head_range(const AttentionSpec& attention, int tp, int shard);
mesh::Range kv_head_range(const AttentionSpec& attention, int tp, int shard);

/// The layers of each stage (mesh::Mesh::split_layers by the multiply-adds of one row, head
/// counted): of a layer's experts only as many count as a row takes.
std::vector<int> layer_split(const ModelSpec& spec, int stages);

/// Whether a stage holds a parameter. A tied head makes the last stage hold the embedding table,
/// too.
bool stage_holds(const ModelSpec& spec, const Param& param, const std::vector<int>& split,
                 int stage);

bool is_norm(ParamKind kind);

/// inverse frequencies of a RopeSpec, [head_dim / 2], in fp32 as Hugging Face computes them.
std::vector<float> rope_frequencies(const RopeSpec& rope, int64_t head_dim);

}  // namespace fourfold::model
