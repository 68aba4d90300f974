#pragma once

#include <string>

#include "files/scratch_folder.h"

namespace fourfold::tests {

/// A folder with the configuration of a small model with experts and nothing else: its weights are
/// made up. Four layers, the first one dense, 8 experts of which a row takes 2. Legal for every
/// scheme of tp, ep and etp up to 8 and pp up to 4.
class MoeModel {
 public:
  std::string path() const { return folder_.path().string(); }

 private:
  static constexpr const char* kConfig = R"({
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": true,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "norm_topk_prob": true,
    "mlp_only_layers": [0]
  })";

  files::ScratchFolder folder_;
  std::filesystem::path config_ = folder_.write("config.json", kConfig);
};

}  // namespace fourfold::tests
