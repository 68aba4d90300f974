#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "files/tensor_file.h"

namespace fourfold::files {

/// The key-value pairs of a GGUF file. They are decoded from the file's bytes when asked for, so
/// the file must stay mapped (GgufFile sees to it); string views point into it. The bytes of
/// strings are the file's own: valid UTF-8 is not promised.
class GgufMetadata {
 public:
  /// The numbers that the format gives to the types of values.
  enum class Type : uint32_t {
    kU8 = 0,
    kI8 = 1,
    kU16 = 2,
    kI16 = 3,
    kU32 = 4,
    kI32 = 5,
    kF32 = 6,
    kBool = 7,
    kString = 8,
    kArray = 9,
    kU64 = 10,
    kI64 = 11,
    kF64 = 12,
  };

  /// A value as it lies in the file: `count` numbers, booleans or strings of `type` from `offset`.
  struct Value {
    Type type;
    bool is_array;
    int64_t count;
    int64_t offset;
  };

  GgufMetadata(std::span<const std::byte> file, std::string_view what,
               std::map<std::string_view, Value> values);

  bool contains(std::string_view key) const { return values_.contains(key); }
  const std::map<std::string_view, Value>& values() const { return values_; }

  /// T: int64_t (any integer type that fits), double (F32, F64), bool or std::string_view.
  /// Errors name the key, the type expected and the type found.
  template <typename T>
  base::Result<T> get(std::string_view key) const;
  /// The same, or `fallback` where the key is absent.
  template <typename T>
  base::Result<T> get_or(std::string_view key, T fallback) const {
    return contains(key) ? get<T>(key) : base::Result<T>(std::move(fallback));
  }
  /// All elements of an array of at most 2^21; T as above.
  template <typename T>
  base::Result<std::vector<T>> get_array(std::string_view key) const;

 private:
  base::Result<const Value*> find(std::string_view key, bool is_array) const;
  template <typename T>
  base::Result<T> read(std::string_view key, Type type, int64_t offset) const;
  base::Error mismatch(std::string_view key, std::string_view expected,
                       std::string_view found) const;

  std::span<const std::byte> file_;
  std::string what_;
  std::map<std::string_view, Value> values_;
};

/// A GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), version 2 or 3,
/// little-endian: its tensors, with dimensions in PyTorch's order, and its metadata.
struct GgufFile {
  TensorStore tensors;
  GgufMetadata metadata;
};

base::Result<GgufFile> open_gguf(const std::filesystem::path& path);

/// What the head of a GGUF file declares, checked against the size of the whole file.
struct GgufHead {
  GgufMetadata metadata;
  std::vector<TensorEntry> entries;
};

/// Checks a whole GGUF file, of which `what` is the name in messages. The metadata refer to `file`.
base::Result<GgufHead> parse_gguf(std::span<const std::byte> file, std::string_view what);

}  // namespace fourfold::files
