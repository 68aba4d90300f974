#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fourfold::files {

/// How the numbers of a tensor lie in a file. kQ*: blocks of ggml (ggml-quants.h), whose scales are
/// shared by the block's elements. Integers and booleans are known so that a file that holds some
/// can be opened; only floating-point and quantised encodings decode to weights.
enum class Encoding : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
};

/// As safetensors and GGUF call it: "BF16", "Q4_K".
std::string_view encoding_name(Encoding encoding);
/// Elements of a block (1 unless quantised), and the bytes that hold them.
int64_t block_size(Encoding encoding);
int64_t block_bytes(Encoding encoding);

/// The encoding of a dtype of safetensors ("BF16") or of a ggml_type number of GGUF (12 = Q4_K);
/// none if fourfold cannot read it.
std::optional<Encoding> encoding_of_safetensors(std::string_view dtype);
std::optional<Encoding> encoding_of_gguf(uint32_t ggml_type);
/// The encodings these two know, for messages: "F32, F16, ...".
std::string safetensors_encodings();
std::string gguf_encodings();

/// Decodes whole blocks into fp32, bit for bit as ggml does. `bytes` holds out.size() elements.
/// Errors: the sizes do not agree or end inside a block; the encoding holds integers.
base::Status decode_row(Encoding encoding, std::span<const std::byte> bytes, std::span<float> out);

/// An IEEE binary16 as fp32, exactly; a NaN stays a NaN.
float half_to_float(uint16_t half);

}  // namespace fourfold::files
