#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "backend/ops.h"
#include "base/result.h"
#include "comm/progress.h"
#include "model/source.h"
#include "model/spec.h"

namespace fourfold::model {

/// One rank's share of a model, in the backend's layout.
class Weights {
 public:
  /// Reads only this rank's bytes of the checkpoint, or makes dummy weights where the source has no
  /// file, with the threads of `stream`. `progress`, if any, advances with every few rows.
  static base::Result<Weights> load(const ModelSource& source, const backend::Ops& ops,
                                    backend::Stream& stream, const RankShare& share,
                                    comm::Progress* progress = nullptr);

  const backend::Weight& get(ParamKind kind, int32_t layer = -1) const;
  /// Null where the model has no such parameter.
  const backend::Weight* find(ParamKind kind, int32_t layer) const;
  /// A kind of matrix of each expert of a layer that the rank holds, by local index: the groups of
  /// Ops::grouped_matmul. Empty where the layer has no experts.
  std::span<const backend::Weight* const> experts(ParamKind kind, int32_t layer) const;
  int64_t bytes() const;
  int64_t file_bytes_read() const { return file_bytes_read_; }

 private:
  using Key = std::pair<ParamKind, int32_t>;  // kind and layer

  std::vector<backend::WeightPtr> owned_;
  std::map<Key, const backend::Weight*> weights_;
  std::map<Key, std::vector<const backend::Weight*>> experts_;
  int64_t file_bytes_read_ = 0;
};

/// Bytes of one rank's weights in `ops`'s layout, without loading them.
int64_t weight_bytes(const ModelSpec& spec, const backend::Ops& ops, const RankShare& share);

/// Keys and values of one KV block over the layers of one rank, in bytes.
int64_t kv_block_bytes(const ModelSpec& spec, const backend::Ops& ops, const RankShare& share,
                       int64_t block_size);

}  // namespace fourfold::model
