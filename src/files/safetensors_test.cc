#include "files/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "files/scratch_folder.h"

namespace fourfold::files {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string file_of(std::string_view header, std::string_view data) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  file += header;
  file += data;
  return file;
}

std::string floats(std::initializer_list<float> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(float)};
}

constexpr std::string_view kHeader = R"({"__metadata__":{"format":"pt"},)"
                                     R"("b":{"dtype":"F32","shape":[2,2],"data_offsets":[4,20]},)"
                                     R"("a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}   )";

std::string small_file() {
  return file_of(kHeader, std::string("\x80\x3f\x00\x40", 4) + floats({1, 2, 3, 4}));
}

base::Result<std::vector<TensorEntry>> parse(std::string_view file) {
  // A copy of exactly this size, so that the address sanitizer sees a read past its end.
  const std::vector<char> bytes(file.begin(), file.end());
  return parse_safetensors(std::as_bytes(std::span(bytes)), "model.safetensors");
}

std::string error_of(std::string_view header, std::string_view data) {
  const auto parsed = parse(file_of(header, data));
  return parsed.ok() ? "no error" : parsed.error().message;
}

TEST(Safetensors, ReadsTheTensorsOfAFile) {
  const ScratchFolder folder;
  const TensorStore store = open_safetensors(folder.write("m.safetensors", small_file())).value();
  ASSERT_EQ(store.entries().size(), 2);
  std::vector<float> a(2);
  ASSERT_TRUE(store.read_rows(*store.find("a"), 0, 1, 0, 2, a).ok());
  EXPECT_EQ(a, (std::vector<float>{1, 2}));
  std::vector<float> b(2);
  ASSERT_TRUE(store.read_rows(*store.find("b"), 0, 2, 1, 2, b).ok());
  EXPECT_EQ(b, (std::vector<float>{2, 4}));
  EXPECT_EQ(store.find("b")->shape, (std::vector<int64_t>{2, 2}));
}

TEST(Safetensors, AcceptsScalarsAndEmptyTensors) {
  EXPECT_EQ(error_of(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                     R"("e":{"dtype":"I64","shape":[0,9],"data_offsets":[4,4]}})",
                     "abcd"),
            "no error");
  EXPECT_EQ(error_of("{}", ""), "no error");
}

TEST(Safetensors, SaysHowManyBytesATruncatedFileLacks) {
  const std::string file = small_file();
  for (size_t size = 0; size < file.size(); ++size) {
    const auto parsed = parse(std::string_view(file).substr(0, size));
    ASSERT_FALSE(parsed.ok()) << size;
    EXPECT_THAT(parsed.error().message,
                AllOf(HasSubstr("model.safetensors is truncated"), HasSubstr("download it again")));
  }
  EXPECT_EQ(parse(std::string_view(file).substr(0, file.size() - 3)).error().message,
            fmt::format("model.safetensors is truncated: 3 bytes are missing (it has {} of {}): "
                        "download it again",
                        file.size() - 3, file.size()));
}

TEST(Safetensors, SurvivesEveryChangeOfOneByte) {
  const std::string file = small_file();
  int64_t refused = 0;
  for (size_t at = 0; at < 8 + kHeader.size(); ++at) {
    for (int change = 1; change < 256; ++change) {
      std::string changed = file;
      changed[at] = static_cast<char>(changed[at] ^ change);
      const auto parsed = parse(changed);
      if (!parsed.ok()) {
        ASSERT_FALSE(parsed.error().message.empty());
        ++refused;
        continue;
      }
      for (const TensorEntry& entry : *parsed) {
        ASSERT_GE(entry.offset, std::ssize(file) - 20);
        ASSERT_LE(entry.offset + entry.bytes, std::ssize(file));
        ASSERT_EQ(entry.bytes, tensor_bytes(entry.name, entry.encoding, entry.shape).value());
      }
    }
  }
  EXPECT_GT(refused, 10000);
}

TEST(Safetensors, RefusesWhatIsNoSafetensorsFile) {
  EXPECT_THAT(parse("<!DOCTYPE html><html>").error().message,
              HasSubstr("is not a safetensors file: it claims a header of"));
  EXPECT_THAT(error_of("  {}", ""), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(error_of("", ""), HasSubstr("does not begin with '{'"));
}

TEST(Safetensors, RefusesHeadersThatAreNotWellFormed) {
  const auto entry = [](std::string_view fields) {
    return error_of(fmt::format("{{\"w\":{{{}}}}}", fields), "abcd");
  };
  EXPECT_EQ(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), "no error");
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[1])"), HasSubstr("needs a dtype"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[1],"data_offsets":[4])"), HasSubstr("[begin, end]"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"),
              HasSubstr("[begin, end]"));
  EXPECT_THAT(entry(R"("dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4])"),
              HasSubstr("has the dtype \"F8_E4M3\"; fourfold reads F64, F32, F16, BF16"));
  EXPECT_THAT(entry(R"("dtype":4,"shape":[1],"data_offsets":[0,4])"), HasSubstr("a number"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"),
              HasSubstr("a negative number"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"),
              HasSubstr("a fraction"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), HasSubstr("an array"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"),
              HasSubstr("too many numbers"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"),
              HasSubstr("beyond 63 bits"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])"),
              HasSubstr("not a possible size"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4])"),
              HasSubstr("a key that stands twice"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1)"),
              HasSubstr("an unknown key"));
  EXPECT_THAT(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"),
              HasSubstr("takes 8 bytes by dtype and shape, but 4 by data_offsets"));
  EXPECT_THAT(error_of(R"({"w":3})", ""), HasSubstr("a number where it cannot stand"));
  EXPECT_THAT(error_of(R"({"__metadata__":{"a":{}}})", ""), HasSubstr("an object"));
  EXPECT_THAT(error_of(fmt::format("{{\"{}\":{{}}}}", std::string(1025, 'x')), ""),
              HasSubstr("a name of more than 1024 bytes"));
  EXPECT_THAT(error_of("{\"w\": \n nul", ""), HasSubstr("header, line 2, column"));
  EXPECT_THAT(error_of("{\"\xff\":{}}", ""), HasSubstr("header, line 1, column"));
}

TEST(Safetensors, RefusesHolesOverlapsAndRestsOfData) {
  const auto pair = [](int a_begin, int b_begin, std::string_view data) {
    return error_of(fmt::format(R"({{"a":{{"dtype":"I8","shape":[4],"data_offsets":[{},{}]}},)"
                                R"("b":{{"dtype":"I8","shape":[4],"data_offsets":[{},{}]}}}})",
                                a_begin, a_begin + 4, b_begin, b_begin + 4),
                    data);
  };
  EXPECT_EQ(pair(4, 0, "abcdefgh"), "no error");
  EXPECT_THAT(pair(0, 3, "abcdefg"), HasSubstr("\"a\" and \"b\" overlap"));
  EXPECT_THAT(pair(0, 5, "abcdefghi"),
              HasSubstr("1 bytes before the tensor \"b\" belong to no tensor"));
  EXPECT_THAT(pair(1, 5, "abcdefghi"), HasSubstr("1 bytes before the tensor \"a\""));
  EXPECT_THAT(pair(0, 4, "abcdefghi"), HasSubstr("1 bytes after the last tensor"));
}

TEST(Safetensors, RefusesATensorThatStandsTwice) {
  const ScratchFolder folder;
  const std::string file = file_of(R"({"w":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},)"
                                   R"("w":{"dtype":"I8","shape":[1],"data_offsets":[1,2]}})",
                                   "ab");
  EXPECT_THAT(open_safetensors(folder.write("m", file)).error().message,
              HasSubstr("the tensor \"w\" stands twice"));
}

TEST(Safetensors, RefusesMoreTensorsThanAnyModelHas) {
  std::string header = "{";
  for (int64_t i = 0; i <= kMaxTensors; ++i) {
    header += fmt::format(R"("{:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},)", i);
  }
  header.back() = '}';
  EXPECT_THAT(error_of(header, ""), HasSubstr("more than 262144 tensors"));
}

class ShardedModel : public testing::Test {
 protected:
  ShardedModel() {
    folder_.write("x-1.safetensors",
                  file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                          R"("spare":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                          floats({1, 9})));
    folder_.write("x-2.safetensors",
                  file_of(R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                          R"("spare":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                          floats({2, 8})));
  }

  base::Result<TensorStore> open(std::string_view index) const {
    folder_.write("model.safetensors.index.json", index);
    return open_safetensors_folder(folder_.path());
  }

  ScratchFolder folder_;
};

TEST_F(ShardedModel, TakesEachTensorFromTheShardThatTheIndexNames) {
  const TensorStore store =
      open(R"({"metadata":{"total_size":16},"weight_map":{"a":"x-1.safetensors",)"
           R"("b":"x-2.safetensors","spare":"x-2.safetensors"}})")
          .value();
  EXPECT_EQ(store.entries().size(), 3);
  for (const auto& [name, value] : {std::pair{"a", 1.0f}, {"b", 2.0f}, {"spare", 8.0f}}) {
    std::vector<float> out(1);
    ASSERT_TRUE(store.read_rows(*store.find(name), 0, 1, 0, 1, out).ok());
    EXPECT_EQ(out[0], value) << name;
  }
}

TEST_F(ShardedModel, NamesAllMissingShards) {
  EXPECT_THAT(open(R"({"weight_map":{"a":"x-1.safetensors","b":"x-3.safetensors",)"
                   R"("c":"x-4.safetensors"}})")
                  .error()
                  .message,
              HasSubstr("download them: x-3.safetensors x-4.safetensors"));
}

TEST_F(ShardedModel, RefusesAnIndexThatDisagreesWithItsShards) {
  EXPECT_THAT(open(R"({"weight_map":{"b":"x-1.safetensors"}})").error().message,
              AllOf(HasSubstr("x-1.safetensors does not hold the tensor \"b\""),
                    HasSubstr("different downloads")));
}

TEST_F(ShardedModel, RefusesAnIndexThatLeavesTheFolder) {
  for (const std::string_view shard : {"../x", "/etc/passwd", "", ".", "..", "a/b"}) {
    EXPECT_THAT(open(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", shard)).error().message,
                HasSubstr("expected the name of a shard"))
        << shard;
  }
}

TEST_F(ShardedModel, RefusesAnIndexWithoutAWeightMap) {
  for (const std::string_view index :
       {"[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})"}) {
    EXPECT_THAT(open(index).error().message, HasSubstr("expected an object \"weight_map\""))
        << index;
  }
  EXPECT_THAT(open(R"({"weight_map":{"a":3}})").error().message,
              HasSubstr("expected a string for \"a\""));
}

TEST(SafetensorsFolder, OpensASingleFileOrSaysWhatIsMissing) {
  const ScratchFolder folder;
  EXPECT_THAT(open_safetensors_folder(folder.path()).error().message,
              HasSubstr("has neither model.safetensors nor model.safetensors.index.json"));
  folder.write("model.safetensors", small_file());
  EXPECT_EQ(open_safetensors_folder(folder.path()).value().entries().size(), 2);
}

}  // namespace
}  // namespace fourfold::files
