#include "runtime/available_memory.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace fourfold::runtime {
namespace {

namespace fs = std::filesystem;

/// A tree of /proc and /sys files.
class AvailableMemory : public testing::Test {
 protected:
  AvailableMemory() {
    std::string pattern = testing::TempDir() + "available-XXXXXX";
    root_ = mkdtemp(pattern.data());
    write("proc/meminfo", "MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable: 4000 kB\n");
  }
  ~AvailableMemory() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

  fs::path root_;
};

constexpr int64_t kMachine = 4000 * 1024;

TEST_F(AvailableMemory, IsTheMachinesWithoutGroups) {
  EXPECT_EQ(available_memory_bytes(root_), kMachine);
}

TEST_F(AvailableMemory, IsWhatTheTightestGroupOfVersion2Leaves) {
  write("proc/self/cgroup", "0::/user/job\n");
  write("sys/fs/cgroup/user/job/memory.max", "3000000\n");
  write("sys/fs/cgroup/user/job/memory.current", "1000000\n");
  write("sys/fs/cgroup/user/job/memory.stat", "anon 600000\ninactive_file 400000\n");
  EXPECT_EQ(available_memory_bytes(root_), 2400000);
  write("sys/fs/cgroup/user/memory.max", "2000000\n");
  write("sys/fs/cgroup/user/memory.current", "1500000\n");
  EXPECT_EQ(available_memory_bytes(root_), 500000) << "a group above is tighter";
}

TEST_F(AvailableMemory, IsTheMachinesWhereAGroupHasNoLimitOrALargerOne) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  write("sys/fs/cgroup/memory.current", "1000000\n");
  EXPECT_EQ(available_memory_bytes(root_), kMachine);
  write("sys/fs/cgroup/memory.max", "9000000000\n");
  EXPECT_EQ(available_memory_bytes(root_), kMachine);
}

TEST_F(AvailableMemory, IsNothingWhereAGroupIsOverItsLimit) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/memory.max", "1000000\n");
  write("sys/fs/cgroup/memory.current", "1000001\n");
  EXPECT_EQ(available_memory_bytes(root_), 0);
}

TEST_F(AvailableMemory, OfAContainerOfVersion1IsReadAtTheTopOfItsMount) {
  write("proc/self/cgroup", "12:cpu,cpuacct:/docker/a\n5:memory:/docker/a\n0::/docker/a\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "700000\n");
  write("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 200000\n");
  EXPECT_EQ(available_memory_bytes(root_), 1500000);
}

TEST_F(AvailableMemory, OfThisMachineIsMoreThanNothing) { EXPECT_GT(available_memory_bytes(), 0); }

}  // namespace
}  // namespace fourfold::runtime
