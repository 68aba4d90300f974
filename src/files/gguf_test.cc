#include "files/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "files/scratch_folder.h"

namespace fourfold::files {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using Type = GgufMetadata::Type;

// Writes the parts of a GGUF file one after the other.
class Writer {
 public:
  template <typename T>
  Writer& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Writer& string(std::string_view value) {
    number<uint64_t>(value.size());
    bytes_ += value;
    return *this;
  }
  Writer& head(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    bytes_ += "GGUF";
    return number(version).number(tensors).number(keys);
  }
  Writer& key(std::string_view name, Type type) { return string(name).number(type); }
  Writer& array(std::string_view name, Type type, uint64_t count) {
    return key(name, Type::kArray).number(type).number(count);
  }
  // Dimensions innermost first, as on disk.
  Writer& tensor(std::string_view name, const std::vector<uint64_t>& dimensions, uint32_t type,
                 uint64_t offset) {
    string(name).number(static_cast<uint32_t>(dimensions.size()));
    for (const uint64_t dimension : dimensions) number(dimension);
    return number(type).number(offset);
  }
  Writer& pad(size_t alignment) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  Writer& data(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

constexpr uint32_t kF32 = 0;
constexpr uint32_t kQ8_0 = 8;

// Every type of value, and two tensors: "norm" (3 of F32) and "w" (2 rows of 32 of Q8_0).
Writer small_head(uint32_t version = 3) {
  Writer w;
  w.head(2, 10, version);
  w.key("general.alignment", Type::kU32).number<uint32_t>(16);
  w.key("arch", Type::kString).string("llama");
  w.key("u8", Type::kU8).number<uint8_t>(255);
  w.key("i16", Type::kI16).number<int16_t>(-300);
  w.key("u64", Type::kU64).number<uint64_t>(uint64_t{1} << 63);
  w.key("f32", Type::kF32).number(0.5f);
  w.key("f64", Type::kF64).number(1e-300);
  w.key("bool", Type::kBool).number<uint8_t>(1);
  w.array("tokens", Type::kString, 3).string("a").string("").string("\xff\n");
  w.array("scores", Type::kF32, 2).number(-1.0f).number(2.0f);
  w.tensor("norm", {3}, kF32, 0).tensor("w", {32, 2}, kQ8_0, 16);
  return w;
}

std::string small_file(uint32_t version = 3) {
  Writer w = small_head(version);
  w.pad(16).number(1.0f).number(2.0f).number(3.0f).pad(16);
  for (char row = 0; row < 2; ++row) {
    w.number<uint16_t>(0x3c00).data(std::string(32, static_cast<char>(row + 5)));
  }
  return w.bytes();
}

class Parsed {
 public:
  explicit Parsed(std::string_view file)
      // A copy of exactly this size, so that the address sanitizer sees a read past its end.
      : bytes_(file.begin(), file.end()),
        head_(parse_gguf(std::as_bytes(std::span(bytes_)), "m.gguf")) {}

  bool ok() const { return head_.ok(); }
  std::string error() const { return ok() ? "no error" : head_.error().message; }
  const GgufHead& head() const { return head_.value(); }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(bytes_)); }

 private:
  std::vector<char> bytes_;
  base::Result<GgufHead> head_;
};

std::string error_of(const Writer& writer) { return Parsed(writer.bytes()).error(); }

TEST(Gguf, ReadsTensorsWithTheOutermostDimensionFirst) {
  const ScratchFolder folder;
  for (const uint32_t version : {2, 3}) {
    const GgufFile file = open_gguf(folder.write("m.gguf", small_file(version))).value();
    const TensorEntry& w = *file.tensors.find("w");
    EXPECT_EQ(w.shape, (std::vector<int64_t>{2, 32}));
    EXPECT_EQ(w.encoding, Encoding::kQ8_0);
    std::vector<float> row(32);
    ASSERT_TRUE(file.tensors.read_rows(w, 1, 2, 0, 32, row).ok());
    EXPECT_EQ(row, std::vector<float>(32, 6.0f));
    std::vector<float> norm(3);
    ASSERT_TRUE(file.tensors.read_rows(*file.tensors.find("norm"), 0, 1, 0, 3, norm).ok());
    EXPECT_EQ(norm, (std::vector<float>{1, 2, 3}));
  }
}

TEST(GgufMetadata, ReadsEveryTypeAlsoAfterAMove) {
  const ScratchFolder folder;
  GgufFile opened = open_gguf(folder.write("m.gguf", small_file())).value();
  const GgufFile file = std::move(opened);
  const GgufMetadata& metadata = file.metadata;
  EXPECT_EQ(metadata.get<int64_t>("u8").value(), 255);
  EXPECT_EQ(metadata.get<int64_t>("i16").value(), -300);
  EXPECT_EQ(metadata.get<double>("f32").value(), 0.5);
  EXPECT_EQ(metadata.get<double>("f64").value(), 1e-300);
  EXPECT_EQ(metadata.get<bool>("bool").value(), true);
  EXPECT_EQ(metadata.get<std::string_view>("arch").value(), "llama");
  EXPECT_THAT(metadata.get_array<std::string_view>("tokens").value(),
              ElementsAre("a", "", "\xff\n"));
  EXPECT_THAT(metadata.get_array<double>("scores").value(), ElementsAre(-1.0, 2.0));
  EXPECT_EQ(metadata.get_or<int64_t>("u8", 7).value(), 255);
  EXPECT_EQ(metadata.get_or<int64_t>("absent", 7).value(), 7);
}

TEST(GgufMetadata, NamesTheKeyAndTheTypeFound) {
  const Parsed parsed(small_file());
  const GgufMetadata& metadata = parsed.head().metadata;
  EXPECT_EQ(metadata.get<int64_t>("absent").error().message, "m.gguf has no key \"absent\"");
  EXPECT_EQ(metadata.get<int64_t>("arch").error().message,
            "m.gguf: expected an integer for \"arch\", found string");
  EXPECT_EQ(metadata.get_or<double>("u8", 1.0).error().message,
            "m.gguf: expected a floating-point number for \"u8\", found u8");
  EXPECT_EQ(metadata.get<int64_t>("u64").error().message,
            "m.gguf: expected an integer of 63 bits for \"u64\", found 9223372036854775808");
  EXPECT_EQ(metadata.get<std::string_view>("tokens").error().message,
            "m.gguf: expected one value for \"tokens\", found an array of string");
  EXPECT_EQ(metadata.get_array<bool>("bool").error().message,
            "m.gguf: expected an array for \"bool\", found one bool");
  EXPECT_EQ(metadata.get_array<int64_t>("scores").error().message,
            "m.gguf: expected an integer for \"scores\", found f32");
}

TEST(GgufMetadata, RefusesABoolThatIsNeitherZeroNorOne) {
  Writer w;
  w.head(0, 1).array("flags", Type::kBool, 2).number<uint8_t>(1).number<uint8_t>(2);
  const Parsed parsed(w.bytes());
  EXPECT_THAT(parsed.head().metadata.get_array<bool>("flags").error().message,
              HasSubstr("expected a bool, 0 or 1 for \"flags\", found 2"));
}

TEST(GgufMetadata, RefusesToReadAnArrayLongerThanAnyVocabulary) {
  constexpr int64_t kMost = int64_t{1} << 21;
  for (const int64_t count : {kMost, kMost + 1}) {
    Writer w;
    w.head(0, 1).array("a", Type::kU8, static_cast<uint64_t>(count));
    w.data(std::string(static_cast<size_t>(count), '\1'));
    const Parsed parsed(w.bytes());
    const auto read = parsed.head().metadata.get_array<int64_t>("a");
    EXPECT_EQ(read.ok(), count == kMost);
    if (!read.ok()) {
      EXPECT_EQ(read.error().message,
                "m.gguf: expected at most 2097152 elements for \"a\", found 2097153");
    }
  }
}

TEST(Gguf, SaysHowManyBytesATruncatedFileLacks) {
  const std::string file = small_file();
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_THAT(Parsed(std::string_view(file).substr(0, size)).error(),
                AllOf(HasSubstr("m.gguf is truncated"), HasSubstr("download it again")))
        << size;
  }
  EXPECT_EQ(Parsed(std::string_view(file).substr(0, file.size() - 5)).error(),
            fmt::format("m.gguf is truncated: 5 bytes are missing (it has {} of {}): "
                        "download it again",
                        file.size() - 5, file.size()));
}

// Asks for every key as a T and touches the bytes of what it gets.
template <typename T>
void read_metadata(const GgufMetadata& metadata) {
  for (const auto& [key, value] : metadata.values()) {
    const auto one = metadata.get<T>(key);
    const auto many = metadata.get_array<T>(key);
    EXPECT_FALSE(one.ok() && many.ok());
    if constexpr (std::is_same_v<T, std::string_view>) {
      std::string all;
      if (one.ok()) all += *one;
      if (many.ok()) {
        for (const std::string_view element : *many) all += element;
      }
    }
  }
}

TEST(Gguf, SurvivesEveryChangeOfOneByte) {
  const std::string file = small_file();
  const size_t head_bytes = small_head().bytes().size();
  int64_t refused = 0;
  for (size_t at = 0; at < head_bytes; ++at) {
    for (int change = 1; change < 256; ++change) {
      std::string changed = file;
      changed[at] = static_cast<char>(changed[at] ^ change);
      const Parsed parsed(changed);
      if (!parsed.ok()) {
        ASSERT_FALSE(parsed.error().empty());
        ++refused;
        continue;
      }
      read_metadata<int64_t>(parsed.head().metadata);
      read_metadata<double>(parsed.head().metadata);
      read_metadata<bool>(parsed.head().metadata);
      read_metadata<std::string_view>(parsed.head().metadata);
      for (const TensorEntry& entry : parsed.head().entries) {
        ASSERT_EQ(entry.bytes, tensor_bytes(entry.name, entry.encoding, entry.shape).value());
        ASSERT_GE(entry.offset, 0);
        ASSERT_LE(entry.offset + entry.bytes, std::ssize(file));
        std::vector<float> out(static_cast<size_t>(entry.rows() * entry.columns()));
        (void)decode_row(entry.encoding,
                         parsed.bytes().subspan(static_cast<size_t>(entry.offset),
                                                static_cast<size_t>(entry.bytes)),
                         out);
      }
    }
  }
  EXPECT_GT(refused, 10000);
}

TEST(Gguf, RefusesOtherFormatsAndVersions) {
  EXPECT_THAT(Parsed("GGML1234567890123456789012").error(), HasSubstr("is not a GGUF file"));
  EXPECT_THAT(error_of(Writer().head(0, 0, 1)), HasSubstr("is GGUF version 1"));
  EXPECT_THAT(error_of(Writer().head(0, 0, 4)), HasSubstr("is GGUF version 4"));
  EXPECT_THAT(error_of(Writer().head(0, 0, 3u << 24)), HasSubstr("big-endian"));
  EXPECT_EQ(error_of(Writer().head(0, 0)), "no error");
}

TEST(Gguf, RefusesCountsThatTheFileCannotHold) {
  EXPECT_THAT(error_of(Writer().head(uint64_t{1} << 60, 0)),
              HasSubstr("it claims 1152921504606846976 tensors"));
  EXPECT_THAT(error_of(Writer().head(0, uint64_t{1} << 60)), HasSubstr("keys; at most"));
  // 14 bytes are the least that a key takes, 25 the least of a tensor.
  EXPECT_THAT(error_of(Writer().head(200000, 60000)), HasSubstr(": 5840000 bytes are missing"));
}

TEST(Gguf, RefusesLengthsThatTheFileCannotHold) {
  const auto with_array = [](Type type, uint64_t count) {
    Writer w;
    w.head(0, 1).array("a", type, count).number<uint64_t>(0);
    return error_of(w);
  };
  EXPECT_EQ(with_array(Type::kString, 1), "no error");
  EXPECT_EQ(with_array(Type::kU64, 1), "no error");
  EXPECT_THAT(with_array(Type::kU64, 2), HasSubstr("8 bytes are missing"));
  EXPECT_THAT(with_array(Type::kString, 2), HasSubstr("8 bytes are missing"));
  EXPECT_THAT(with_array(Type::kU64, uint64_t{1} << 61), HasSubstr("not a possible size"));
  EXPECT_THAT(with_array(Type::kU64, uint64_t{1} << 63), HasSubstr("an array length of"));
  EXPECT_THAT(with_array(Type::kU8, uint64_t{1} << 40), HasSubstr("at most 268435456 are read"));
  EXPECT_THAT(error_of(Writer().head(0, 1).number(~uint64_t{0}).number<uint64_t>(0)),
              HasSubstr("a string length of 18446744073709551615"));
  EXPECT_THAT(error_of(Writer().head(0, 1).string("").number(Type::kU64).number<uint64_t>(0)),
              HasSubstr("a key of 0 bytes"));
}

TEST(Gguf, RefusesUnknownAndNestedTypesOfValues) {
  EXPECT_THAT(error_of(Writer().head(0, 1).key("k", Type{13}).number<uint64_t>(0)),
              HasSubstr("the key \"k\" has a value of type 13, which does not exist"));
  EXPECT_THAT(error_of(Writer().head(0, 1).array("k", Type{13}, 0).number<uint64_t>(0)),
              HasSubstr("type 13"));
  EXPECT_THAT(error_of(Writer().head(0, 1).array("k", Type::kArray, 1).number<uint64_t>(0)),
              HasSubstr("an array of arrays"));
}

TEST(Gguf, RefusesKeysAndTensorsThatStandTwice) {
  Writer keys;
  keys.head(0, 2).key("k", Type::kU8).number<uint8_t>(1).key("k", Type::kU8).number<uint8_t>(1);
  EXPECT_THAT(error_of(keys), HasSubstr("the key \"k\" stands twice"));

  const ScratchFolder folder;
  Writer tensors;
  tensors.head(2, 0).tensor("w", {1}, kF32, 0).tensor("w", {1}, kF32, 32).pad(32);
  tensors.data(std::string(64, 'x'));
  EXPECT_THAT(open_gguf(folder.write("m.gguf", tensors.bytes())).error().message,
              HasSubstr("the tensor \"w\" stands twice"));
}

TEST(Gguf, RefusesAlignmentsThatAreNoPowerOfTwo) {
  for (const uint32_t alignment : {0u, 3u, 48u, ~0u}) {
    Writer w;
    w.head(0, 1).key("general.alignment", Type::kU32).number(alignment);
    EXPECT_THAT(error_of(w), HasSubstr("expected a power of two for \"general.alignment\""));
  }
  Writer text;
  text.head(0, 1).key("general.alignment", Type::kString).string("32");
  EXPECT_THAT(error_of(text), HasSubstr("expected an integer for \"general.alignment\""));
}

TEST(Gguf, RefusesTensorsThatCannotBe) {
  const auto with_tensor = [](const std::vector<uint64_t>& dimensions, uint32_t type,
                              uint64_t offset) {
    Writer w;
    w.head(1, 0).tensor("w", dimensions, type, offset).pad(32).data(std::string(64, 'x'));
    return error_of(w);
  };
  EXPECT_EQ(with_tensor({4, 4}, kF32, 0), "no error");
  EXPECT_EQ(with_tensor({}, kF32, 32), "no error");
  EXPECT_THAT(with_tensor({1, 1, 1, 1, 1}, kF32, 0), HasSubstr("has 5 dimensions"));
  EXPECT_THAT(with_tensor({~uint64_t{0}}, kF32, 0), HasSubstr("a dimension of"));
  EXPECT_THAT(with_tensor({uint64_t{1} << 40, uint64_t{1} << 40}, kF32, 0),
              HasSubstr("not a possible size"));
  EXPECT_THAT(with_tensor({16, 2}, kQ8_0, 0), HasSubstr("not whole blocks of Q8_0"));
  EXPECT_THAT(with_tensor({256}, 16, 0), HasSubstr("has the ggml type 16; fourfold reads F64"));
  EXPECT_THAT(with_tensor({4}, kF32, 16), HasSubstr("not a multiple of the alignment 32"));
  EXPECT_THAT(with_tensor({16}, kF32, 32), HasSubstr("32 bytes are missing"));
  EXPECT_THAT(with_tensor({16}, kF32, uint64_t{1} << 62), HasSubstr("is truncated"));
  EXPECT_THAT(with_tensor({1}, kF32, (uint64_t{1} << 63) - 32), HasSubstr("not a possible size"));
}

TEST(Gguf, RefusesDataThatOverlap) {
  Writer w;
  w.head(2, 0).tensor("b", {9}, kF32, 0).tensor("a", {1}, kF32, 32).pad(32);
  w.data(std::string(64, 'x'));
  EXPECT_THAT(error_of(w), HasSubstr("\"b\" and \"a\" overlap"));
}

TEST(Gguf, PrintsHostileNamesSafely) {
  Writer w;
  w.head(1, 0).tensor("\x1b[2J\xff" + std::string(500, 'x'), {1}, 99, 0).pad(32);
  const std::string message = error_of(w);
  EXPECT_THAT(message, HasSubstr("\\x1b[2J\\xffxxx"));
  EXPECT_LT(message.size(), 400);
}

}  // namespace
}  // namespace fourfold::files
