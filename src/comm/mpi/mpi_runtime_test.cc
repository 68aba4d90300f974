#include "comm/mpi/mpi_runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "comm/contract_test.h"
#include "comm/shared/shared_communicator.h"

namespace fourfold::comm {
namespace {

namespace fs = std::filesystem;
using ::testing::IsEmpty;

/// The argument that makes this program a rank under mpirun, followed by what the rank does.
constexpr std::string_view kRankFlag = "--play-rank=";

/// A directory in /dev/shm for what Open MPI itself puts there, so that a test sees what is left by
/// its own job and by no other.
class PrivateDirectory {
 public:
  PrivateDirectory() {
    std::string name = "/dev/shm/fourfold_test_XXXXXX";
    CHECK(mkdtemp(name.data()) != nullptr, "cannot create {}", name);
    path_ = name;
  }
  ~PrivateDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  PrivateDirectory(const PrivateDirectory&) = delete;
  PrivateDirectory& operator=(const PrivateDirectory&) = delete;

  const fs::path& path() const { return path_; }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(path_)) {
      if (!entry.is_directory()) names.push_back(entry.path().string());
    }
    return names;
  }

 private:
  fs::path path_;
};

/// Runs this program as `ranks` ranks that do `what`; the exit status of mpirun.
int run_job(int ranks, const std::string& what, const fs::path& directory) {
  const std::string self = fs::read_symlink("/proc/self/exe").string();
  std::vector<std::string> words{"mpirun",
                                 "-n",
                                 std::to_string(ranks),
                                 "--oversubscribe",
                                 "--bind-to",
                                 "none",
                                 "--mca",
                                 "pml",
                                 "ob1",
                                 "--mca",
                                 "btl",
                                 "self,vader",
                                 "--mca",
                                 "odls_base_sigkill_timeout",
                                 "0",
                                 "--mca",
                                 "btl_vader_backing_directory",
                                 directory.string(),
                                 "--mca",
                                 "orte_tmpdir_base",
                                 directory.string(),
                                 self,
                                 std::string(kRankFlag) + what};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  // Sanitizers would report what Open MPI itself never frees.
  std::vector<std::string> settings{"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                                    "OMPI_MCA_mpi_yield_when_idle=1",
                                    "ASAN_OPTIONS=detect_leaks=0"};
  std::vector<char*> environment;
  for (std::string& setting : settings) environment.push_back(setting.data());
  for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
  environment.push_back(nullptr);
  pid_t pid = 0;
  if (posix_spawnp(&pid, "mpirun", nullptr, nullptr, argv.data(), environment.data()) != 0) {
    ADD_FAILURE() << "cannot start mpirun; is Open MPI installed?";
    return -1;
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

class MpiRuntimeTest : public ::testing::Test {
 protected:
  void SetUp() override {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "Open MPI is not built for the thread sanitizer";
#endif
  }
  PrivateDirectory directory_;
};

class MpiContract : public MpiRuntimeTest, public ::testing::WithParamInterface<int> {};

TEST_P(MpiContract, HoldsThroughSharedMemory) {
  EXPECT_EQ(run_job(GetParam(), "shared", directory_.path()), 0);
  EXPECT_THAT(directory_.files(), IsEmpty());
}

TEST_P(MpiContract, HoldsThroughMessages) {
  EXPECT_EQ(run_job(GetParam(), "messages", directory_.path()), 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, MpiContract, ::testing::Values(1, 2, 3, 4, 6, 8));

TEST_F(MpiRuntimeTest, AKilledRankEndsTheJobAndNothingIsLeft) {
  EXPECT_EQ(run_job(4, "killed", directory_.path()), 128 + SIGKILL);
  EXPECT_THAT(directory_.files(), IsEmpty());
}

TEST_F(MpiRuntimeTest, AbortEndsAllRanks) {
  EXPECT_EQ(run_job(4, "abort", directory_.path()), 1);
  EXPECT_THAT(directory_.files(), IsEmpty());
}

/// What one rank under mpirun does; its exit status.
int play_rank(std::string_view what) {
  auto started = MpiRuntime::start({.shared_memory = what != "messages"});
  CHECK(started.ok(), "{}", started.error().message);
  MpiRuntime& runtime = **started;
  const auto comm = runtime.world();
  CHECK(comm->rank() == runtime.rank() && comm->size() == runtime.size(), "rank {} of {}",
        comm->rank(), comm->size());
  // A fall-back to messages would keep the contract, only slower.
  CHECK((dynamic_cast<SharedCommunicator*>(comm.get()) != nullptr) == (what != "messages"),
        "the wrong communicator for {}", what);
  if (what == "killed" || what == "abort") {
    comm->barrier();
    if (comm->rank() == 1) {
      if (what == "abort") runtime.abort("rank 1 aborts, as the test wants");
      raise(SIGKILL);
    }
    comm->barrier();
  } else {
    expect_contract(*comm, 25);
  }
  runtime.progress();
  return ::testing::UnitTest::GetInstance()->Failed() ? 1 : 0;
}

}  // namespace
}  // namespace fourfold::comm

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const std::string_view last = argv[argc - 1];
  if (last.starts_with(fourfold::comm::kRankFlag)) {
    return fourfold::comm::play_rank(last.substr(fourfold::comm::kRankFlag.size()));
  }
  return RUN_ALL_TESTS();
}
