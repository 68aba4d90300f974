#include "files/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "base/sizes.h"
#include "files/printable.h"

namespace fourfold::files {

using base::fail;
using base::Result;
using base::Status;
using Type = GgufMetadata::Type;

namespace {

// Limits far above any real file: models have some 50 keys, half a million merges, 20 MB of head.
constexpr uint64_t kMaxKeys = 1 << 16;
constexpr int64_t kMaxHeadBytes = int64_t{256} << 20;
constexpr int64_t kMaxNameBytes = 1024;
constexpr int64_t kMaxArrayRead = int64_t{1} << 21;
constexpr uint32_t kMaxGgufDimensions = 4;
constexpr int64_t kDefaultAlignment = 32;

struct TypeTraits {
  std::string_view name;
  int64_t bytes;  // of one value; 0 where that depends on the value
};

// By the number of the type.
constexpr std::array<TypeTraits, 13> kTypes = {{{"u8", 1},
                                                {"i8", 1},
                                                {"u16", 2},
                                                {"i16", 2},
                                                {"u32", 4},
                                                {"i32", 4},
                                                {"f32", 4},
                                                {"bool", 1},
                                                {"string", 0},
                                                {"array", 0},
                                                {"u64", 8},
                                                {"i64", 8},
                                                {"f64", 8}}};

std::string_view type_name(Type type) { return kTypes[static_cast<size_t>(type)].name; }
int64_t value_bytes(Type type) { return kTypes[static_cast<size_t>(type)].bytes; }

template <typename T>
T load(std::span<const std::byte> file, int64_t offset) {
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}

// A string whose length was checked when the head was parsed.
std::string_view load_string(std::span<const std::byte> file, int64_t offset) {
  const auto length = static_cast<size_t>(load<uint64_t>(file, offset));
  return {reinterpret_cast<const char*>(file.data()) + offset + 8, length};
}

// Walks over the head of a file; every step is checked against the file's size.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, std::string_view what) : file_(file), what_(what) {}

  int64_t offset() const { return offset_; }
  int64_t left() const { return std::ssize(file_) - offset_; }

  Status skip(int64_t bytes) {
    if (bytes > kMaxHeadBytes - offset_) {
      return fail("{} is damaged: at byte {} its head goes on for {} bytes; at most {} are read",
                  what_, offset_, bytes, kMaxHeadBytes);
    }
    if (bytes > left()) return truncated(what_, offset_ + bytes, std::ssize(file_));
    offset_ += bytes;
    return {};
  }

  template <typename T>
  Result<T> number() {
    const int64_t at = offset_;
    FF_TRY(skip(sizeof(T)));
    return load<T>(file_, at);
  }

  // A length or a count: unsigned on disk, so the high half of its range is an error.
  Result<int64_t> size(std::string_view of) {
    FF_ASSIGN(const uint64_t value, number<uint64_t>());
    if (value > uint64_t{INT64_MAX}) {
      return fail("{} is damaged: {} of {} at byte {}", what_, of, value, offset_ - 8);
    }
    return static_cast<int64_t>(value);
  }

  Status skip_string() {
    FF_ASSIGN(const int64_t length, size("a string length"));
    return skip(length);
  }

  Result<std::string_view> name(std::string_view of) {
    const int64_t at = offset_;
    FF_TRY(skip_string());
    const std::string_view name = load_string(file_, at);
    if (name.empty() || std::ssize(name) > kMaxNameBytes) {
      return fail("{} is damaged: {} of {} bytes at byte {}", what_, of, name.size(), at);
    }
    return name;
  }

 private:
  std::span<const std::byte> file_;
  std::string_view what_;
  int64_t offset_ = 0;
};

Result<Type> parse_type(Cursor& cursor, std::string_view key, std::string_view what) {
  FF_ASSIGN(const uint32_t type, cursor.number<uint32_t>());
  if (type >= kTypes.size()) {
    return fail("{} is damaged: the key \"{}\" has a value of type {}, which does not exist", what,
                printable(key), type);
  }
  return Type{type};
}

Result<GgufMetadata::Value> parse_value(Cursor& cursor, std::string_view key,
                                        std::string_view what) {
  GgufMetadata::Value value = {.type = Type::kU8, .is_array = false, .count = 1, .offset = 0};
  FF_ASSIGN(value.type, parse_type(cursor, key, what));
  if (value.type == Type::kArray) {
    value.is_array = true;
    FF_ASSIGN(value.type, parse_type(cursor, key, what));
    if (value.type == Type::kArray) {
      return fail("{}: the key \"{}\" is an array of arrays, which no model needs", what,
                  printable(key));
    }
    FF_ASSIGN(value.count, cursor.size("an array length"));
  }
  value.offset = cursor.offset();
  if (value.type == Type::kString) {
    for (int64_t i = 0; i < value.count; ++i) {
      FF_TRY(cursor.skip_string());
    }
  } else {
    const auto bytes = base::checked_mul(value.count, value_bytes(value.type), "array");
    if (!bytes.ok()) {
      return fail("{} is damaged: the key \"{}\": {}", what, printable(key), bytes.error().message);
    }
    FF_TRY(cursor.skip(*bytes));
  }
  return value;
}

Result<GgufMetadata> parse_metadata(Cursor& cursor, std::span<const std::byte> file, int64_t keys,
                                    std::string_view what) {
  std::map<std::string_view, GgufMetadata::Value> values;
  for (int64_t i = 0; i < keys; ++i) {
    FF_ASSIGN(const std::string_view key, cursor.name("a key"));
    FF_ASSIGN(const GgufMetadata::Value value, parse_value(cursor, key, what));
    if (!values.emplace(key, value).second) {
      return fail("{} is damaged: the key \"{}\" stands twice", what, printable(key));
    }
  }
  return GgufMetadata(file, what, std::move(values));
}

// A tensor as the head lists it; its offset still counts from the start of the data.
Result<TensorEntry> parse_tensor(Cursor& cursor, int64_t alignment, std::string_view what) {
  TensorEntry entry;
  FF_ASSIGN(entry.name, cursor.name("a tensor name"));
  FF_ASSIGN(const uint32_t dimensions, cursor.number<uint32_t>());
  if (dimensions > kMaxGgufDimensions) {
    return fail("{} is damaged: tensor \"{}\" has {} dimensions; at most {} are possible", what,
                printable(entry.name), dimensions, kMaxGgufDimensions);
  }
  entry.shape.resize(dimensions);
  for (size_t i = 0; i < dimensions; ++i) {
    // On disk the innermost dimension comes first.
    FF_ASSIGN(entry.shape[dimensions - 1 - i], cursor.size("a dimension"));
  }
  FF_ASSIGN(const uint32_t type, cursor.number<uint32_t>());
  const std::optional<Encoding> encoding = encoding_of_gguf(type);
  if (!encoding) {
    return fail("{}: tensor \"{}\" has the ggml type {}; fourfold reads {}", what,
                printable(entry.name), type, gguf_encodings());
  }
  entry.encoding = *encoding;
  FF_ASSIGN(entry.offset, cursor.size("a tensor offset"));
  if (entry.offset % alignment != 0) {
    return fail("{} is damaged: tensor \"{}\" begins at {}, not a multiple of the alignment {}",
                what, printable(entry.name), entry.offset, alignment);
  }
  const auto bytes = tensor_bytes(entry.name, entry.encoding, entry.shape);
  if (!bytes.ok()) return fail("{} is damaged: {}", what, bytes.error().message);
  entry.bytes = *bytes;
  return entry;
}

Result<int64_t> alignment_of(const GgufMetadata& metadata, std::string_view what) {
  FF_ASSIGN(const int64_t alignment,
            metadata.get_or<int64_t>("general.alignment", kDefaultAlignment));
  if (alignment < 1 || alignment > UINT32_MAX ||
      !std::has_single_bit(static_cast<uint64_t>(alignment))) {
    return fail("{} is damaged: expected a power of two for \"general.alignment\", found {}", what,
                alignment);
  }
  return alignment;
}

// Turns offsets from the start of the data into offsets from the start of the file.
Status place_data(std::vector<TensorEntry>& entries, int64_t data, int64_t size,
                  std::string_view what) {
  int64_t end = 0;
  for (TensorEntry& entry : entries) {
    FF_ASSIGN(entry.offset, base::checked_add(entry.offset, data, "a tensor offset"));
    FF_ASSIGN(const int64_t entry_end, base::checked_add(entry.offset, entry.bytes, "a tensor"));
    end = std::max(end, entry_end);
  }
  if (end > size) return truncated(what, end, size);
  return sort_by_offset(entries, what);
}

Status check_magic_and_version(Cursor& cursor, std::string_view what) {
  FF_ASSIGN(const uint32_t magic, cursor.number<uint32_t>());
  constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
  if (magic != kMagic) return fail("{} is not a GGUF file: it does not begin with \"GGUF\"", what);
  FF_ASSIGN(const uint32_t version, cursor.number<uint32_t>());
  if (version == 2 || version == 3) return {};
  if (version % 65536 == 0) {
    return fail("{} is a big-endian GGUF file; fourfold reads little-endian ones", what);
  }
  return fail("{} is GGUF version {}; fourfold reads 2 and 3: convert the model again", what,
              version);
}

}  // namespace

Result<GgufHead> parse_gguf(std::span<const std::byte> file, std::string_view what) {
  Cursor cursor(file, what);
  FF_TRY(check_magic_and_version(cursor, what));
  FF_ASSIGN(const uint64_t tensors, cursor.number<uint64_t>());
  FF_ASSIGN(const uint64_t keys, cursor.number<uint64_t>());
  if (tensors > uint64_t{kMaxTensors} || keys > kMaxKeys) {
    return fail("{} is damaged: it claims {} tensors and {} keys; at most {} and {} are read", what,
                tensors, keys, kMaxTensors, kMaxKeys);
  }
  // The least that a key (length, 1 byte, type, value) and a tensor (length, 1 byte, dimensions,
  // type, offset) take.
  const int64_t least_bytes = static_cast<int64_t>(keys * 14 + tensors * 25);
  if (cursor.left() < least_bytes) {
    return truncated(what, cursor.offset() + least_bytes, std::ssize(file));
  }
  FF_ASSIGN(GgufMetadata metadata, parse_metadata(cursor, file, static_cast<int64_t>(keys), what));
  FF_ASSIGN(const int64_t alignment, alignment_of(metadata, what));
  std::vector<TensorEntry> entries;
  entries.reserve(tensors);
  for (uint64_t i = 0; i < tensors; ++i) {
    FF_ASSIGN(entries.emplace_back(), parse_tensor(cursor, alignment, what));
  }
  const int64_t data = base::round_up(cursor.offset(), alignment);
  FF_TRY(place_data(entries, data, std::ssize(file), what));
  return GgufHead{.metadata = std::move(metadata), .entries = std::move(entries)};
}

Result<GgufFile> open_gguf(const std::filesystem::path& path) {
  FF_ASSIGN(MappedFile file, MappedFile::open(path));
  FF_ASSIGN(GgufHead head, parse_gguf(file.bytes(), file.path()));
  std::vector<MappedFile> files;
  files.push_back(std::move(file));
  FF_ASSIGN(TensorStore tensors, TensorStore::create(std::move(files), std::move(head.entries)));
  return GgufFile{.tensors = std::move(tensors), .metadata = std::move(head.metadata)};
}

GgufMetadata::GgufMetadata(std::span<const std::byte> file, std::string_view what,
                           std::map<std::string_view, Value> values)
    : file_(file), what_(what), values_(std::move(values)) {}

Result<const GgufMetadata::Value*> GgufMetadata::find(std::string_view key, bool is_array) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return fail("{} has no key \"{}\"", what_, key);
  const Value& value = found->second;
  if (value.is_array != is_array) {
    return fail("{}: expected {} for \"{}\", found {} {}", what_,
                is_array ? "an array" : "one value", key, is_array ? "one" : "an array of",
                type_name(value.type));
  }
  return &value;
}

base::Error GgufMetadata::mismatch(std::string_view key, std::string_view expected,
                                   std::string_view found) const {
  return fail("{}: expected {} for \"{}\", found {}", what_, expected, key, found);
}

template <>
Result<int64_t> GgufMetadata::read(std::string_view key, Type type, int64_t offset) const {
  switch (type) {
    case Type::kU8:
      return load<uint8_t>(file_, offset);
    case Type::kI8:
      return load<int8_t>(file_, offset);
    case Type::kU16:
      return load<uint16_t>(file_, offset);
    case Type::kI16:
      return load<int16_t>(file_, offset);
    case Type::kU32:
      return load<uint32_t>(file_, offset);
    case Type::kI32:
      return load<int32_t>(file_, offset);
    case Type::kI64:
      return load<int64_t>(file_, offset);
    case Type::kU64: {
      const auto value = load<uint64_t>(file_, offset);
      if (value > uint64_t{INT64_MAX}) {
        return mismatch(key, "an integer of 63 bits", fmt::format("{}", value));
      }
      return static_cast<int64_t>(value);
    }
    default:
      return mismatch(key, "an integer", type_name(type));
  }
}

template <>
Result<double> GgufMetadata::read(std::string_view key, Type type, int64_t offset) const {
  if (type == Type::kF32) return load<float>(file_, offset);
  if (type == Type::kF64) return load<double>(file_, offset);
  return mismatch(key, "a floating-point number", type_name(type));
}

template <>
Result<bool> GgufMetadata::read(std::string_view key, Type type, int64_t offset) const {
  if (type != Type::kBool) return mismatch(key, "a bool", type_name(type));
  const auto value = load<uint8_t>(file_, offset);
  if (value > 1) return mismatch(key, "a bool, 0 or 1", fmt::format("{}", value));
  return value == 1;
}

template <>
Result<std::string_view> GgufMetadata::read(std::string_view key, Type type, int64_t offset) const {
  if (type != Type::kString) return mismatch(key, "a string", type_name(type));
  return load_string(file_, offset);
}

template <typename T>
Result<T> GgufMetadata::get(std::string_view key) const {
  FF_ASSIGN(const Value* value, find(key, /*is_array=*/false));
  return read<T>(key, value->type, value->offset);
}

template <typename T>
Result<std::vector<T>> GgufMetadata::get_array(std::string_view key) const {
  FF_ASSIGN(const Value* value, find(key, /*is_array=*/true));
  if (value->count > kMaxArrayRead) {
    return mismatch(key, fmt::format("at most {} elements", kMaxArrayRead),
                    fmt::format("{}", value->count));
  }
  std::vector<T> elements;
  elements.reserve(static_cast<size_t>(value->count));
  int64_t offset = value->offset;
  for (int64_t i = 0; i < value->count; ++i) {
    FF_ASSIGN(const T element, read<T>(key, value->type, offset));
    elements.push_back(element);
    if constexpr (std::is_same_v<T, std::string_view>) {
      offset += 8 + std::ssize(element);
    } else {
      offset += value_bytes(value->type);
    }
  }
  return elements;
}

template Result<int64_t> GgufMetadata::get(std::string_view) const;
template Result<double> GgufMetadata::get(std::string_view) const;
template Result<bool> GgufMetadata::get(std::string_view) const;
template Result<std::string_view> GgufMetadata::get(std::string_view) const;
template Result<std::vector<int64_t>> GgufMetadata::get_array(std::string_view) const;
template Result<std::vector<double>> GgufMetadata::get_array(std::string_view) const;
template Result<std::vector<bool>> GgufMetadata::get_array(std::string_view) const;
template Result<std::vector<std::string_view>> GgufMetadata::get_array(std::string_view) const;

}  // namespace fourfold::files
