#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "files/gguf.h"
#include "files/scratch_folder.h"
#include "model/families/family.h"
#include "model/source.h"

namespace fourfold::model {

inline nlohmann::json llama_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 261},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"bos_token_id", 1},
          {"eos_token_id", 2}};
}

/// Opens a folder with the config.json `config` and, unless empty, a generation_config.json.
inline base::Result<ModelSpec> open(const std::string& config, const std::string& generation = "") {
  const files::ScratchFolder folder;
  folder.write("config.json", config);
  if (!generation.empty()) folder.write("generation_config.json", generation);
  FF_ASSIGN(const ModelSource source, open_model(folder.path().string(), /*dummy=*/true, 0));
  return source.spec;
}

inline base::Result<ModelSpec> open_with(nlohmann::json config, const nlohmann::json& changes) {
  config.update(changes);
  return open(config.dump());
}

template <typename T>
std::string error_of(const base::Result<T>& result) {
  return result.ok() ? "no error" : result.error().message;
}

/// A GGUF file of metadata, one F32 tensor of [261, 64] and one of [8].
class TinyGguf {
 public:
  explicit TinyGguf(const std::string& arch) : arch_(arch) {
    text("general.architecture", arch);
    for (const auto& [key, value] :
         {std::pair{"embedding_length", 64}, std::pair{"context_length", 512},
          std::pair{"block_count", 3}, std::pair{"feed_forward_length", 96},
          std::pair{"attention.head_count", 4}, std::pair{"attention.head_count_kv", 2},
          std::pair{"attention.sliding_window", arch == "gemma3" ? 24 : 0}}) {
      integer(arch + "." + key, value);
    }
    real(arch + ".attention.layer_norm_rms_epsilon", 1e-5F);
  }

  TinyGguf& text(const std::string& key, const std::string& value) {
    return start(key, Type::kString).string(value);
  }
  TinyGguf& integer(const std::string& key, uint32_t value) {
    return start(key, Type::kU32).number(value);
  }
  TinyGguf& real(const std::string& key, float value) {
    return start(key, Type::kF32).number(value);
  }
  TinyGguf& boolean(const std::string& key, bool value) {
    return start(key, Type::kBool).number(value);
  }
  TinyGguf& tensor(const std::string& name) {
    tensor_ = name;
    return *this;
  }

  /// The model that its family reads from it.
  base::Result<ModelSpec> read() {
    const files::ScratchFolder folder;
    FF_ASSIGN(const files::GgufFile file, files::open_gguf(folder.write("model.gguf", finish())));
    for (const Family* family : families()) {
      const auto& known = family->gguf_architectures;
      if (std::find(known.begin(), known.end(), arch_) != known.end()) {
        return family->from_gguf(file);
      }
    }
    return base::fail("no family reads {}", arch_);
  }

  /// The bytes of the file.
  std::string finish() {
    const std::string metadata = std::move(bytes_);
    bytes_ = "GGUF";
    number<uint32_t>(3).number<uint64_t>(2).number(keys_);
    bytes_ += metadata;
    const uint64_t size = uint64_t{261} * 64 * sizeof(float);
    string("token_embd.weight").number<uint32_t>(2).number<uint64_t>(64).number<uint64_t>(261);
    number<uint32_t>(0).number<uint64_t>(0);
    string(tensor_).number<uint32_t>(1).number<uint64_t>(8);
    number<uint32_t>(0).number<uint64_t>(align(size));
    bytes_.resize(align(bytes_.size()) + align(size) + 8 * sizeof(float));
    return bytes_;
  }

 private:
  using Type = files::GgufMetadata::Type;

  static uint64_t align(uint64_t n) { return (n + 31) / 32 * 32; }
  template <typename T>
  TinyGguf& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  TinyGguf& string(const std::string& value) {
    number<uint64_t>(value.size());
    bytes_ += value;
    return *this;
  }
  TinyGguf& start(const std::string& key, Type type) {
    ++keys_;
    return string(key).number(type);
  }

  std::string arch_;
  std::string tensor_ = "output_norm.weight";
  std::string bytes_;
  uint64_t keys_ = 0;
};

}  // namespace fourfold::model
