#include "files/tensor_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <thread>
#include <tuple>
#include <utility>

#include "files/scratch_folder.h"

namespace fourfold::files {
namespace {

using testing::HasSubstr;

constexpr int64_t kRows = 6;
constexpr int64_t kColumns = 64;

// A store of one file: 16 bytes of padding, "plain" (6 x 64 of F32: 0, 1, 2, ...), "quantised"
// (6 x 64 of Q8_0: scale 1; row r is r, r, ...), "count" (one I64).
class TensorStoreTest : public testing::Test {
 protected:
  TensorStoreTest() {
    std::string bytes(16, '\0');
    for (int64_t i = 0; i < kRows * kColumns; ++i) {
      const auto value = static_cast<float>(i);
      bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    const auto quantised_offset = std::ssize(bytes);
    for (int64_t block = 0; block < kRows * 2; ++block) {
      bytes.append("\x00\x3c", 2);  // 1.0 as fp16
      bytes.append(32, static_cast<char>(block / 2));
    }
    const auto count_offset = std::ssize(bytes);
    bytes.append(8, '\x01');
    std::vector<MappedFile> files;
    files.push_back(MappedFile::open(folder_.write("model", bytes)).value());
    store_.emplace(TensorStore::create(std::move(files), {{.name = "quantised",
                                                           .encoding = Encoding::kQ8_0,
                                                           .shape = {kRows, kColumns},
                                                           .offset = quantised_offset,
                                                           .bytes = kRows * 68},
                                                          {.name = "plain",
                                                           .encoding = Encoding::kF32,
                                                           .shape = {2, kRows / 2, kColumns},
                                                           .offset = 16,
                                                           .bytes = kRows * kColumns * 4},
                                                          {.name = "count",
                                                           .encoding = Encoding::kI64,
                                                           .shape = {1},
                                                           .offset = count_offset,
                                                           .bytes = 8}})
                       .value());
  }

  const TensorStore& store() const { return *store_; }

  // The cut, or its error.
  base::Result<std::vector<float>> read(std::string_view name, int64_t row_begin, int64_t row_end,
                                        int64_t column_begin, int64_t column_end) const {
    const int64_t size = (row_end - row_begin) * (column_end - column_begin);
    std::vector<float> out(static_cast<size_t>(std::max<int64_t>(size, 0)));
    FF_TRY(
        store().read_rows(*store().find(name), row_begin, row_end, column_begin, column_end, out));
    return out;
  }

 private:
  ScratchFolder folder_;
  std::optional<TensorStore> store_;
};

TEST_F(TensorStoreTest, FindsTensorsByName) {
  ASSERT_NE(store().find("plain"), nullptr);
  EXPECT_EQ(store().find("plain")->rows(), kRows);
  EXPECT_EQ(store().find("plain")->columns(), kColumns);
  EXPECT_EQ(store().find("plai"), nullptr);
  EXPECT_EQ(store().find(""), nullptr);
  EXPECT_EQ(store().find("zzz"), nullptr);
  EXPECT_EQ(store().entries().front().name, "count");
}

TEST_F(TensorStoreTest, ReadsAnyCutOfAPlainTensor) {
  for (const auto& [row_begin, row_end, column_begin, column_end] :
       {std::tuple{0, 6, 0, 64}, {2, 5, 0, 64}, {0, 6, 1, 2}, {5, 6, 63, 64}, {3, 3, 0, 64}}) {
    std::vector<float> expected;
    for (int row = row_begin; row < row_end; ++row) {
      for (int column = column_begin; column < column_end; ++column) {
        expected.push_back(static_cast<float>(row * kColumns + column));
      }
    }
    EXPECT_EQ(read("plain", row_begin, row_end, column_begin, column_end).value(), expected);
  }
}

TEST_F(TensorStoreTest, CopiesTheBytesOfACut) {
  const files::TensorEntry& plain = *store().find("plain");
  for (const auto& [row_begin, row_end, column_begin, column_end] :
       {std::tuple{0, 6, 0, 64}, {2, 5, 0, 64}, {1, 4, 7, 9}, {3, 3, 0, 64}}) {
    const std::vector<float> expected =
        read("plain", row_begin, row_end, column_begin, column_end).value();
    std::vector<float> out(expected.size());
    const int64_t before = store().bytes_read();
    ASSERT_TRUE(store()
                    .read_bytes(plain, row_begin, row_end, column_begin, column_end,
                                std::as_writable_bytes(std::span(out)))
                    .ok());
    EXPECT_EQ(out, expected);
    EXPECT_EQ(store().bytes_read() - before, std::ssize(out) * 4);
  }
  std::vector<std::byte> small(255);
  EXPECT_EQ(store().read_bytes(plain, 0, 1, 0, 64, small).error().message,
            "a cut of 1 rows of 256 bytes of \"plain\" does not fit 255 bytes");
  EXPECT_FALSE(store().read_bytes(plain, 0, 7, 0, 64, small).ok());
}

TEST_F(TensorStoreTest, CutsAQuantisedTensorBetweenBlocksOnly) {
  const std::vector<float> cut = read("quantised", 4, 6, 32, 64).value();
  for (size_t i = 0; i < cut.size(); ++i) EXPECT_EQ(cut[i], i < 32 ? 4.0f : 5.0f);
  EXPECT_EQ(read("quantised", 4, 6, 16, 64).error().message,
            "columns [16, 64) cut through a block of \"quantised\": Q8_0 has blocks of 32");
  EXPECT_FALSE(read("quantised", 4, 6, 0, 63).ok());
}

TEST_F(TensorStoreTest, RefusesACutOutsideTheTensorOrOfAnotherSize) {
  EXPECT_EQ(read("plain", 0, 7, 0, 64).error().message,
            "rows [0, 7) x columns [0, 64) lie outside \"plain\", which is 6 x 64");
  EXPECT_FALSE(read("plain", 0, 1, 0, 65).ok());
  EXPECT_FALSE(read("plain", -1, 1, 0, 64).ok());
  EXPECT_FALSE(read("plain", 3, 2, 0, 64).ok());
  EXPECT_FALSE(read("plain", 0, 1, 5, 4).ok());
  std::vector<float> out(63);
  EXPECT_EQ(store().read_rows(*store().find("plain"), 0, 1, 0, 64, out).error().message,
            "a cut of 1 x 64 of \"plain\" does not fit 63 floats");
}

TEST_F(TensorStoreTest, RefusesToReadIntegersAsWeights) {
  EXPECT_THAT(read("count", 0, 1, 0, 1).error().message, HasSubstr("I64 holds integers"));
}

TEST_F(TensorStoreTest, CountsTheBytesOfEachCutAndNoOthers) {
  EXPECT_EQ(store().bytes_read(), 0);
  ASSERT_TRUE(read("plain", 0, 6, 8, 16).ok());
  EXPECT_EQ(store().bytes_read(), 6 * 8 * 4);
  ASSERT_TRUE(read("quantised", 0, 3, 0, 64).ok());
  EXPECT_EQ(store().bytes_read(), 6 * 8 * 4 + 3 * 68);
  ASSERT_FALSE(read("plain", 0, 7, 0, 64).ok());
  ASSERT_TRUE(read("plain", 2, 2, 0, 64).ok());
  EXPECT_EQ(store().bytes_read(), 6 * 8 * 4 + 3 * 68);
}

// The shards of all ranks together read every byte once, whichever way the matrix is cut.
TEST_F(TensorStoreTest, ShardsAddUpToTheTensor) {
  for (int64_t rank = 0; rank < 2; ++rank) {
    ASSERT_TRUE(read("quantised", 0, kRows, rank * 32, (rank + 1) * 32).ok());
  }
  EXPECT_EQ(store().bytes_read(), store().find("quantised")->bytes);
  for (int64_t rank = 0; rank < 2; ++rank) {
    ASSERT_TRUE(read("quantised", rank * 3, (rank + 1) * 3, 0, kColumns).ok());
  }
  EXPECT_EQ(store().bytes_read(), 2 * store().find("quantised")->bytes);
}

TEST_F(TensorStoreTest, ServesManyThreads) {
  const std::vector<float> whole = read("plain", 0, kRows, 0, kColumns).value();
  const int64_t bytes_before = store().bytes_read();
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 100; ++i) {
          ASSERT_EQ(read("plain", 0, kRows, 0, kColumns).value(), whole);
        }
      });
    }
  }
  EXPECT_EQ(store().bytes_read() - bytes_before, 400 * store().find("plain")->bytes);
}

int64_t resident_file_kb() {
  std::ifstream status("/proc/self/status");
  std::string word;
  int64_t kb = -1;
  while (status >> word) {
    if (word == "RssFile:") status >> kb;
  }
  return kb;
}

TEST(TensorStore, DoesNotKeepReleasedRowsInMemory) {
  constexpr int64_t kBytes = int64_t{64} << 20;
  const ScratchFolder folder;
  const auto path = folder.write("model", "x");
  std::filesystem::resize_file(path, kBytes);
  std::vector<MappedFile> files;
  files.push_back(MappedFile::open(path).value());
  const TensorStore store = TensorStore::create(std::move(files), {{.name = "w",
                                                                    .encoding = Encoding::kBF16,
                                                                    .shape = {kBytes / 2048, 1024},
                                                                    .offset = 0,
                                                                    .bytes = kBytes}})
                                .value();
  std::vector<float> out(1024 * 1024);
  const int64_t before_kb = resident_file_kb();
  ASSERT_GE(before_kb, 0);
  int64_t peak_kb = 0;
  for (int64_t row = 0; row < kBytes / 2048; row += 1024) {
    ASSERT_TRUE(store.read_rows(store.entries()[0], row, row + 1024, 0, 1024, out).ok());
    peak_kb = std::max(peak_kb, resident_file_kb());
    store.release(store.entries()[0], row, row + 1024);
  }
  EXPECT_EQ(store.bytes_read(), kBytes);
  EXPECT_LT(peak_kb - before_kb, 8 << 10);
}

TEST(TensorStore, RefusesANameThatStandsTwice) {
  const ScratchFolder folder;
  std::vector<MappedFile> files;
  files.push_back(MappedFile::open(folder.write("model", "abcd")).value());
  const TensorEntry entry = {
      .name = "w", .encoding = Encoding::kI8, .shape = {4}, .offset = 0, .bytes = 4};
  EXPECT_THAT(TensorStore::create(std::move(files), {entry, entry}).error().message,
              HasSubstr("the tensor \"w\" stands twice"));
}

TEST(TensorEntry, SeesATensorAsRowsAndColumns) {
  using Shape = std::vector<int64_t>;
  for (const auto& [shape, rows, columns] :
       {std::tuple{Shape{}, 1, 1}, {Shape{7}, 1, 7}, {Shape{2, 3, 5}, 6, 5}}) {
    TensorEntry entry;
    entry.shape = shape;
    EXPECT_EQ(entry.rows(), rows);
    EXPECT_EQ(entry.columns(), columns);
  }
}

TEST(TensorBytes, AreCheckedAgainstOverflowAndBlocks) {
  using Shape = std::vector<int64_t>;
  constexpr int64_t kHuge = int64_t{1} << 32;
  EXPECT_EQ(tensor_bytes("w", Encoding::kF16, Shape{2, 3}).value(), 12);
  EXPECT_EQ(tensor_bytes("w", Encoding::kQ6_K, Shape{2, 512}).value(), 4 * 210);
  EXPECT_EQ(tensor_bytes("w", Encoding::kF32, Shape{}).value(), 4);
  EXPECT_EQ(tensor_bytes("w", Encoding::kF32, Shape{0, kHuge, kHuge}).value(), 0);
  EXPECT_THAT(tensor_bytes("w", Encoding::kF32, Shape{kHuge, kHuge}).error().message,
              HasSubstr("tensor \"w\": shape: 4294967296 x 4294967296 is not a possible size"));
  EXPECT_FALSE(tensor_bytes("w", Encoding::kF64, Shape{kHuge, kHuge / 4}).ok());
  EXPECT_FALSE(tensor_bytes("w", Encoding::kF32, Shape{-1, -1}).ok());
  EXPECT_EQ(tensor_bytes("w", Encoding::kQ4_K, Shape{512, 128}).error().message,
            "tensor \"w\": rows of 128 elements are not whole blocks of Q4_K (256 elements)");
}

}  // namespace
}  // namespace fourfold::files
