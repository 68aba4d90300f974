#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "files/gguf.h"

namespace fourfold::fuzz {

/// Writes the parts of a GGUF file one after the other.
class GgufWriter {
 public:
  using Type = files::GgufMetadata::Type;

  template <typename T>
  GgufWriter& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  GgufWriter& string(std::string_view value) {
    number<uint64_t>(value.size());
    bytes_ += value;
    return *this;
  }
  GgufWriter& text(std::string_view key, std::string_view value) {
    return string(key).number(Type::kString).string(value);
  }
  GgufWriter& integer(std::string_view key, uint32_t value) {
    return string(key).number(Type::kU32).number(value);
  }
  GgufWriter& array(std::string_view key, Type type, uint64_t count) {
    return string(key).number(Type::kArray).number(type).number(count);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_ = "GGUF";
};

/// A whole Llama model of one layer in some 1,800 bytes of GGUF: eight pieces, a hidden size of 2.
inline std::string small_gguf() {
  struct Tensor {
    std::string_view name;
    std::vector<uint64_t> dimensions;  // innermost first, as on disk
  };
  const std::vector<std::string_view> pieces = {"<unk>", "<s>", "</s>", "\xe2\x96\x81",
                                                "a",     "b",   "ab",   "  "};
  const std::vector<int32_t> types = {2, 3, 3, 1, 1, 1, 1, 4};
  const std::vector<Tensor> tensors = {
      {"token_embd.weight", {2, pieces.size()}}, {"output_norm.weight", {2}},
      {"blk.0.attn_norm.weight", {2}},           {"blk.0.attn_q.weight", {2, 2}},
      {"blk.0.attn_k.weight", {2, 2}},           {"blk.0.attn_v.weight", {2, 2}},
      {"blk.0.attn_output.weight", {2, 2}},      {"blk.0.ffn_norm.weight", {2}},
      {"blk.0.ffn_gate.weight", {2, 2}},         {"blk.0.ffn_up.weight", {2, 2}},
      {"blk.0.ffn_down.weight", {2, 2}}};
  constexpr uint64_t kKeys = 13;
  GgufWriter w;
  w.number<uint32_t>(3).number<uint64_t>(tensors.size()).number(kKeys);
  w.text("general.architecture", "llama");
  w.integer("llama.embedding_length", 2).integer("llama.context_length", 16);
  w.integer("llama.block_count", 1).integer("llama.feed_forward_length", 2);
  w.integer("llama.attention.head_count", 1);
  w.string("llama.attention.layer_norm_rms_epsilon").number(GgufWriter::Type::kF32).number(1e-5F);
  w.text("tokenizer.ggml.model", "llama");
  w.array("tokenizer.ggml.tokens", GgufWriter::Type::kString, pieces.size());
  for (const std::string_view piece : pieces) w.string(piece);
  w.array("tokenizer.ggml.scores", GgufWriter::Type::kF32, pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) w.number(-static_cast<float>(i));
  w.array("tokenizer.ggml.token_type", GgufWriter::Type::kI32, pieces.size());
  for (const int32_t type : types) w.number(type);
  w.integer("tokenizer.ggml.bos_token_id", 1).integer("tokenizer.ggml.unknown_token_id", 0);

  uint64_t offset = 0;
  uint64_t end = 0;
  for (const Tensor& tensor : tensors) {
    w.string(tensor.name).number(static_cast<uint32_t>(tensor.dimensions.size()));
    uint64_t bytes = sizeof(float);
    for (const uint64_t dimension : tensor.dimensions) {
      w.number(dimension);
      bytes *= dimension;
    }
    w.number<uint32_t>(0).number(offset);  // F32
    end = offset + bytes;
    offset = (end + 31) / 32 * 32;
  }
  std::string file = w.bytes();
  file.resize((file.size() + 31) / 32 * 32 + end);
  return file;
}

/// Three tensors of different types and metadata in some 300 bytes of safetensors.
inline std::string small_safetensors() {
  const std::string header = R"({"__metadata__":{"format":"pt"},)"
                             R"("a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},)"
                             R"("b":{"dtype":"F32","shape":[2,2],"data_offsets":[4,20]},)"
                             R"("c":{"dtype":"I64","shape":[],"data_offsets":[20,28]}}  )";
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header +
         std::string(28, 'x');
}

}  // namespace fourfold::fuzz
