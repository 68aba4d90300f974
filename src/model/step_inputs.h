#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "backend/ops.h"
#include "base/result.h"

namespace fourfold::model {

/// What the rows of one step are, in the backend's memory.
struct StepInputs {
  backend::RowLayout rows;
  tensor::View tokens;   ///< i32 [M]
  tensor::View sampled;  ///< i32 [R], rows whose logits are wanted
  tensor::View draws;    ///< i32 [R, backend::kDrawWords], how tokens are chosen from these
};

/// Packs the inputs of one step after another into one buffer of the host and takes them to the
/// backend in one copy.
class StepPacker {
 public:
  struct Limits {
    int64_t rows = 0;     ///< M, and R
    int64_t entries = 0;  ///< of the block tables of all sequences of a step
  };
  static int64_t bytes(const Limits& limits);
  /// The inputs of `steps` steps may be on their way to the backend at once.
  static base::Result<StepPacker> create(const backend::Ops& ops, const Limits& limits,
                                         int steps = 1);

  /// In host memory, to be filled by the caller.
  struct Fields {
    tensor::View positions;     ///< i32 [M]
    tensor::View sequences;     ///< i32 [M], index into block_tables
    tensor::View block_tables;  ///< i32 [S, width]
    tensor::View tokens;        ///< i32 [M]
    tensor::View sampled;       ///< i32 [R]
    tensor::View draws;         ///< i32 [R, backend::kDrawWords]
  };
  /// The host's fields of the last but `steps` are overwritten, and the backend's of the last when
  /// this one is finished.
  Fields begin(int64_t rows, int64_t sequences, int64_t width, int64_t sampled);
  /// The step begun, when its fields are filled. Valid until the next one begins.
  StepInputs finish(backend::Stream& stream);

 private:
  StepPacker(const backend::Ops& ops, std::vector<tensor::Buffer> host, tensor::Buffer device)
      : ops_(&ops), host_(std::move(host)), device_(std::move(device)) {}
  tensor::View take(tensor::Shape shape);
  const tensor::Buffer& host() const { return host_[turn_]; }

  const backend::Ops* ops_;
  std::vector<tensor::Buffer> host_;  ///< taken in turns
  size_t turn_ = 0;
  tensor::Buffer device_;  ///< empty where the backend's memory is the host's
  int64_t used_ = 0;       ///< entries
  Fields fields_;
  backend::RowLayout host_rows_;
};

}  // namespace fourfold::model
