#pragma once

#include <string>

#include "mesh/mesh.h"
#include "verify/options.h"

namespace fourfold::verify {

/// The `fourfold` command line that runs a scheme with the model and settings of these options.
std::string start_command(const VerifyOptions& options, const mesh::ParallelConfig& scheme);

/// The same scheme in vLLM's words, or in parentheses that it has none.
std::string vllm_command(const VerifyOptions& options, const mesh::ParallelConfig& scheme,
                         bool has_experts);

}  // namespace fourfold::verify
