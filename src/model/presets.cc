#include "model/presets.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>

namespace fourfold::model {
namespace {

struct Preset {
  std::string_view name;
  std::string_view hub_id;  ///< empty: not a published model
  int64_t layers, hidden, intermediate, heads, kv_heads, vocab, positions;
  double rope_theta;
  bool llama3_scaling;
};

constexpr std::array kPresets = {
    Preset{"llama-1b", "", 16, 2048, 8192, 32, 8, 32000, 4096, 10000.0, false},
    Preset{"llama-2-7b", "meta-llama/Llama-2-7b-hf", 32, 4096, 11008, 32, 32, 32000, 4096, 10000.0,
           false},
    Preset{"mistral-7b", "mistralai/Mistral-7B-v0.3", 32, 4096, 14336, 32, 8, 32768, 32768, 1e6,
           false},
    Preset{"llama-3.1-8b", "meta-llama/Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128256, 131072, 5e5,
           true},
    Preset{"llama-2-70b", "meta-llama/Llama-2-70b-hf", 80, 8192, 28672, 64, 8, 32000, 4096, 10000.0,
           false},
    Preset{"llama-3.1-70b", "meta-llama/Llama-3.1-70B", 80, 8192, 28672, 64, 8, 128256, 131072, 5e5,
           true},
};

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) ==
           std::tolower(static_cast<unsigned char>(y));
  });
}

}  // namespace

std::optional<nlohmann::json> preset_config(std::string_view name) {
  const auto it = std::find_if(kPresets.begin(), kPresets.end(), [&](const Preset& p) {
    return same_name(name, p.name) || (!p.hub_id.empty() && same_name(name, p.hub_id));
  });
  if (it == kPresets.end()) return std::nullopt;
  nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                           {"hidden_size", it->hidden},
                           {"intermediate_size", it->intermediate},
                           {"num_hidden_layers", it->layers},
                           {"num_attention_heads", it->heads},
                           {"num_key_value_heads", it->kv_heads},
                           {"vocab_size", it->vocab},
                           {"max_position_embeddings", it->positions},
                           {"rms_norm_eps", 1e-5},
                           {"rope_theta", it->rope_theta},
                           {"tie_word_embeddings", false}};
  if (it->llama3_scaling) {
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 8.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 8192}};
  }
  return config;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> out;
  for (const Preset& p : kPresets) out.emplace_back(p.name);
  return out;
}

}  // namespace fourfold::model
