#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "files/tensor_file.h"

namespace fourfold::files {

/// Opens one safetensors file (https://huggingface.co/docs/safetensors).
base::Result<TensorStore> open_safetensors(const std::filesystem::path& path);

/// Opens the tensors of a Hugging Face model folder: the shards named by
/// model.safetensors.index.json, or else model.safetensors. The index decides which shard a tensor
/// comes from. Errors: neither file, missing shards (all named), a tensor that is not in its shard.
base::Result<TensorStore> open_safetensors_folder(const std::filesystem::path& folder);

/// Checks the header of a whole safetensors file and gives its tensors, in the order of their data.
/// The data must follow the header without hole or overlap up to the end of the file. `what` names
/// the file in messages.
base::Result<std::vector<TensorEntry>> parse_safetensors(std::span<const std::byte> file,
                                                         std::string_view what);

}  // namespace fourfold::files
