#include "files/encoding.h"

#include <array>

namespace fourfold::files {

namespace {

constexpr int kNoGgmlType = -1;

struct Traits {
  Encoding encoding;
  std::string_view name;
  int64_t block_size;
  int64_t block_bytes;
  int ggml_type;
  bool in_safetensors;
};

// In the order of the enum.
constexpr std::array kTraits = {
    Traits{Encoding::kF64, "F64", 1, 8, 28, true},
    Traits{Encoding::kF32, "F32", 1, 4, 0, true},
    Traits{Encoding::kF16, "F16", 1, 2, 1, true},
    Traits{Encoding::kBF16, "BF16", 1, 2, 30, true},
    Traits{Encoding::kI64, "I64", 1, 8, 27, true},
    Traits{Encoding::kI32, "I32", 1, 4, 26, true},
    Traits{Encoding::kI16, "I16", 1, 2, 25, true},
    Traits{Encoding::kI8, "I8", 1, 1, 24, true},
    Traits{Encoding::kU64, "U64", 1, 8, kNoGgmlType, true},
    Traits{Encoding::kU32, "U32", 1, 4, kNoGgmlType, true},
    Traits{Encoding::kU16, "U16", 1, 2, kNoGgmlType, true},
    Traits{Encoding::kU8, "U8", 1, 1, kNoGgmlType, true},
    Traits{Encoding::kBool, "BOOL", 1, 1, kNoGgmlType, true},
    Traits{Encoding::kQ4_0, "Q4_0", 32, 18, 2, false},
    Traits{Encoding::kQ4_1, "Q4_1", 32, 20, 3, false},
    Traits{Encoding::kQ5_0, "Q5_0", 32, 22, 6, false},
    Traits{Encoding::kQ5_1, "Q5_1", 32, 24, 7, false},
    Traits{Encoding::kQ8_0, "Q8_0", 32, 34, 8, false},
    Traits{Encoding::kQ4_K, "Q4_K", 256, 144, 12, false},
    Traits{Encoding::kQ5_K, "Q5_K", 256, 176, 13, false},
    Traits{Encoding::kQ6_K, "Q6_K", 256, 210, 14, false},
};

constexpr bool traits_follow_the_enum() {
  for (size_t i = 0; i < kTraits.size(); ++i) {
    if (static_cast<size_t>(kTraits[i].encoding) != i) return false;
  }
  return true;
}
static_assert(traits_follow_the_enum());

const Traits& traits(Encoding encoding) { return kTraits[static_cast<size_t>(encoding)]; }

template <typename Predicate>
std::optional<Encoding> find_encoding(Predicate predicate) {
  for (const Traits& t : kTraits) {
    if (predicate(t)) return t.encoding;
  }
  return std::nullopt;
}

template <typename Predicate>
std::string list_encodings(Predicate predicate) {
  std::string names;
  for (const Traits& t : kTraits) {
    if (!predicate(t)) continue;
    if (!names.empty()) names += ", ";
    names += t.name;
  }
  return names;
}

}  // namespace

std::string_view encoding_name(Encoding encoding) { return traits(encoding).name; }
int64_t block_size(Encoding encoding) { return traits(encoding).block_size; }
int64_t block_bytes(Encoding encoding) { return traits(encoding).block_bytes; }

std::optional<Encoding> encoding_of_safetensors(std::string_view dtype) {
  return find_encoding([&](const Traits& t) { return t.in_safetensors && t.name == dtype; });
}

std::optional<Encoding> encoding_of_gguf(uint32_t ggml_type) {
  return find_encoding([&](const Traits& t) {
    return t.ggml_type != kNoGgmlType && static_cast<uint32_t>(t.ggml_type) == ggml_type;
  });
}

std::string safetensors_encodings() {
  return list_encodings([](const Traits& t) { return t.in_safetensors; });
}

std::string gguf_encodings() {
  return list_encodings([](const Traits& t) { return t.ggml_type != kNoGgmlType; });
}

}  // namespace fourfold::files
