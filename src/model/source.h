#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "files/tensor_file.h"
#include "model/spec.h"

namespace fourfold::model {

/// A model that was found: what it is, and where its weights and its vocabulary are.
struct ModelSource {
  enum class Kind { kFolder, kGguf, kPreset };

  std::string name;  ///< as the user wrote it
  Kind kind = Kind::kPreset;
  std::string path;  ///< of the folder or the GGUF file; empty for a preset
  ModelSpec spec;
  std::shared_ptr<const files::TensorStore> tensors;  ///< null: dummy weights
  uint64_t dummy_seed = 0;
};

/// Resolves MODEL: a Hugging Face folder, a GGUF file, a built-in name, a hub id in the local
/// cache, or a preset. Checks that every parameter is there in the right shape, reading headers
/// only. `dummy`: take the architecture only and make weights from `dummy_seed`, in a model with
/// experts routed by `dummy_routing`; real weights and dense models refuse any but the natural one.
base::Result<ModelSource> open_model(std::string_view name, bool dummy, uint64_t dummy_seed,
                                     const DummyRouting& dummy_routing = {});

}  // namespace fourfold::model
