#include "backend/cuda/tuning_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace fourfold::backend::cuda {
namespace {

const MatmulProblem kOne{.bf16_out = true, .rows = 32, .n = 28672, .k = 4096};
const MatmulProblem kOther{.bf16_out = false, .rows = 32, .n = 28672, .k = 4096};
const AlgorithmBytes kAlgorithm{1, 0, 0xffffffffffffffff, 4, 5, 6, 7, 8};

class TuningCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("fourfold_tuning_" + std::to_string(getpid()) +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
    path_ = folder_ / "inner" / "file.txt";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string text() const {
    std::ifstream in(path_);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  }
  void write(const std::string& text) const { std::ofstream(path_) << text; }

  std::filesystem::path folder_;
  std::filesystem::path path_;
};

TEST_F(TuningCacheTest, WhatWasSavedIsThereAtTheNextStart) {
  TuningCache cache(path_);
  EXPECT_FALSE(cache.find(kOne));
  cache.add(kOne, kAlgorithm);
  ASSERT_TRUE(cache.save().ok());
  const TuningCache later(path_);
  EXPECT_EQ(later.refused(), "");
  EXPECT_EQ(later.find(kOne), kAlgorithm);
  EXPECT_FALSE(later.find(kOther));
}

TEST_F(TuningCacheTest, TwoProcessesKeepWhatTheOtherFound) {
  TuningCache first(path_);
  TuningCache second(path_);
  first.add(kOne, kAlgorithm);
  second.add(kOther, kAlgorithm);
  ASSERT_TRUE(first.save().ok());
  ASSERT_TRUE(second.save().ok());
  const TuningCache later(path_);
  EXPECT_TRUE(later.find(kOne));
  EXPECT_TRUE(later.find(kOther));
}

TEST_F(TuningCacheTest, EveryTruncationAndEveryChangedByteIsRefused) {
  TuningCache cache(path_);
  cache.add(kOne, kAlgorithm);
  ASSERT_TRUE(cache.save().ok());
  const std::string whole = text();
  for (size_t i = 0; i < whole.size(); ++i) {
    write(whole.substr(0, i));
    EXPECT_NE(TuningCache(path_).refused(), "") << i;
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    write(changed);
    EXPECT_NE(TuningCache(path_).refused(), "") << i;
  }
}

TEST_F(TuningCacheTest, AFileThatIsRefusedIsMadeAnew) {
  std::filesystem::create_directories(path_.parent_path());
  write("nonsense");
  TuningCache cache(path_);
  EXPECT_NE(cache.refused().find("not the kernels"), std::string::npos);
  cache.add(kOne, kAlgorithm);
  ASSERT_TRUE(cache.save().ok());
  EXPECT_EQ(TuningCache(path_).refused(), "");
}

TEST_F(TuningCacheTest, AFolderThatCannotBeMadeIsNamed) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ / "inner") << "a file";
  TuningCache cache(path_);
  cache.add(kOne, kAlgorithm);
  const base::Status saved = cache.save();
  ASSERT_FALSE(saved.ok());
  EXPECT_NE(saved.error().message.find("file.txt"), std::string::npos);
}

}  // namespace
}  // namespace fourfold::backend::cuda
