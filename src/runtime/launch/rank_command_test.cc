#include "runtime/launch/rank_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>

#include "files/scratch_folder.h"
#include "runtime/launch/run_dir.h"

namespace fourfold::runtime {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Contains;
using testing::HasSubstr;

/// Sets an environment variable until the end of the scope.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value) : name_(name), old_(getenv(name)) {
    setenv(name, value.c_str(), 1);
  }
  ~ScopedVariable() { setenv(name_, old_.c_str(), 1); }

 private:
  const char* name_;
  std::string old_;
};

TEST(RunDir, IsPrivateAndGoneWithAllItHolds) {
  std::filesystem::path path;
  {
    const base::Result<RunDir> dir = RunDir::create();
    ASSERT_TRUE(dir.ok()) << dir.error().message;
    path = dir->path();
    struct stat info {};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700U);
    std::filesystem::create_directories(path / "session" / "deep");
    std::ofstream(path / "session" / "deep" / "file") << "x";
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(RunDir, RemoveLeavesWhatIsNoRunDirectory) {
  const files::ScratchFolder folder;
  const std::filesystem::path other = folder.path() / "models";
  std::filesystem::create_directory(other);
  RunDir::remove(other);
  EXPECT_TRUE(std::filesystem::exists(other));

  const std::filesystem::path open = folder.path() / "fourfold-abcdef";
  std::filesystem::create_directory(open);
  std::filesystem::permissions(open, std::filesystem::perms::all);
  RunDir::remove(open);
  EXPECT_TRUE(std::filesystem::exists(open));

  std::filesystem::permissions(open, std::filesystem::perms::owner_all);
  std::filesystem::create_directory_symlink(open, folder.path() / "fourfold-ghijkl");
  RunDir::remove(folder.path() / "fourfold-ghijkl");
  EXPECT_TRUE(std::filesystem::exists(open));
  RunDir::remove(open);
  EXPECT_FALSE(std::filesystem::exists(open));
}

TEST(ChildProcess, GivesTheExitAndTheOutput) {
  const files::ScratchFolder folder;
  base::Result<ChildProcess> child =
      ChildProcess::spawn({.args = {"/bin/sh", "-c", "echo $WORD; echo bad >&2; exit 3"},
                           .environment = {"WORD=good"},
                           .output = folder.path() / "output"});
  ASSERT_TRUE(child.ok()) << child.error().message;
  const std::optional<int> status = child->wait_exit(seconds(20));
  ASSERT_TRUE(status);
  EXPECT_EQ(describe_exit(*status), "exited with status 3");
  EXPECT_EQ(last_words(folder.path() / "output", Speaker::kRanks), ":\n    good\n    bad");
  EXPECT_EQ(child->wait_exit(milliseconds(0)), status);
}

TEST(ChildProcess, EndsWhenItsInputDoes) {
  const files::ScratchFolder folder;
  base::Result<ChildProcess> child = ChildProcess::spawn({.args = {"/bin/sh", "-c", "cat; exit 4"},
                                                          .environment = {},
                                                          .output = folder.path() / "output"});
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(child->wait_exit(milliseconds(0)), std::nullopt);
  child->end();
  const std::optional<int> status = child->wait_exit(milliseconds(0));
  ASSERT_TRUE(status);
  EXPECT_EQ(describe_exit(*status), "exited with status 4");
}

TEST(ChildProcess, SaysWhatCannotBeStarted) {
  const files::ScratchFolder folder;
  const base::Result<ChildProcess> child = ChildProcess::spawn(
      {.args = {"/nowhere/fourfold"}, .environment = {}, .output = folder.path() / "output"});
  ASSERT_FALSE(child.ok());
  EXPECT_THAT(child.error().message, HasSubstr("/nowhere/fourfold"));
}

TEST(LastWords, AreThoseOfTheRanksWithoutWhatIsWrappedAroundThem) {
  const files::ScratchFolder folder;
  const std::filesystem::path output =
      folder.write("output",
                   "a.cc:3: CHECK(x) failed: 3 rows\n"
                   "[host:12] *** Process received signal ***\n"
                   "[host:12] Signal: Aborted (6)\n"
                   "[host:12] [ 0] /lib/libc.so.6(+0x1)[0x7f]\n"
                   "[host:12] *** End of error message ***\n"
                   "--------------------------------------------------------------------------\n"
                   "Primary job terminated normally\n"
                   "--------------------------------------------------------------------------\n");
  EXPECT_EQ(last_words(output, Speaker::kRanks),
            ":\n    a.cc:3: CHECK(x) failed: 3 rows\n    [host:12] Signal: Aborted (6)");
  EXPECT_EQ(last_words(output, Speaker::kMpirunToo),
            ":\n    a.cc:3: CHECK(x) failed: 3 rows\n    [host:12] Signal: Aborted (6)\n"
            "    Primary job terminated normally");
}

TEST(LastWords, AreFewLinesOrNone) {
  const files::ScratchFolder folder;
  EXPECT_EQ(last_words(folder.path() / "missing", Speaker::kRanks), "");
  EXPECT_EQ(last_words(folder.write("empty", "\n\n"), Speaker::kRanks), "");
  EXPECT_EQ(last_words(folder.write("long", "1\n2\n3\n4\n5\n6\n7\n8\n"), Speaker::kRanks),
            ":\n    3\n    4\n    5\n    6\n    7\n    8");
}

TEST(RankCommand, StartsOneRankWithoutMpirunAndSeveralByIt) {
  RankConfig config;
  const base::Result<ChildProcess::Options> one =
      rank_command(config, "/bin/fourfold", "/run", "s");
  ASSERT_TRUE(one.ok());
  EXPECT_THAT(one->args, testing::ElementsAre("/bin/fourfold", "guard", "/run", "/bin/fourfold",
                                              "worker", "/run", "1"));
  EXPECT_THAT(one->environment, Contains("FOURFOLD_CONTROL_SECRET=s"));

  config.group = {.pp = 2, .tp = 2};
  const base::Result<ChildProcess::Options> four =
      rank_command(config, "/bin/fourfold", "/run", "s");
  ASSERT_TRUE(four.ok()) << four.error().message;
  EXPECT_EQ(four->args[0], "/bin/fourfold");
  EXPECT_THAT(four->args[3], HasSubstr("mpirun"));
  EXPECT_THAT(four->args, testing::IsSupersetOf({"-n", "4", "mpi_yield_when_idle"}));
  EXPECT_EQ(four->args.back(), "4");
  config.cpus = {0, 1, 2, 3};
  EXPECT_THAT(rank_command(config, "/bin/fourfold", "/run", "s")->args,
              testing::Not(Contains("mpi_yield_when_idle")));
}

TEST(RankCommand, SaysWhatToDoWhereThereIsNoMpirun) {
  const files::ScratchFolder empty;
  const ScopedVariable path("PATH", empty.path());
  RankConfig config;
  EXPECT_TRUE(rank_command(config, "/bin/fourfold", "/run", "s").ok());
  config.group.tp = 2;
  const base::Result<ChildProcess::Options> command =
      rank_command(config, "/bin/fourfold", "/run", "s");
  ASSERT_FALSE(command.ok());
  EXPECT_EQ(command.error().message,
            "mpirun not found in PATH: install openmpi-bin, or use --ranks threads");
}

}  // namespace
}  // namespace fourfold::runtime
