// What happens to `fourfold verify` when a rank is killed or the user has had enough.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace fourfold::tests {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using testing::HasSubstr;

/// A running program whose stderr is read; killed if it is still there at the end.
class Program {
 public:
  Program(std::vector<std::string> arguments, const std::filesystem::path& temporary,
          const char* fault = nullptr) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDERR_FILENO);
      dup2(open("/dev/null", O_RDWR), STDOUT_FILENO);
      setenv("TMPDIR", temporary.c_str(), 1);
      if (fault != nullptr) setenv("FOURFOLD_FAULT", fault, 1);
      std::vector<char*> argv;
      arguments.insert(arguments.begin(), FOURFOLD_BINARY);
      for (std::string& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      execv(FOURFOLD_BINARY, argv.data());
      _exit(127);
    }
    close(ends[1]);
    output_ = ends[0];
  }
  ~Program() {
    if (!code_) kill(pid_, SIGKILL);
    close(output_);
  }

  pid_t pid() const { return pid_; }

  /// Reads stderr until `text` is in it.
  bool wait_for(const std::string& text, milliseconds limit) {
    const Clock::time_point deadline = Clock::now() + limit;
    while (words_.find(text) == std::string::npos) {
      const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
      pollfd fd{output_, POLLIN, 0};
      if (left.count() <= 0 || poll(&fd, 1, static_cast<int>(left.count())) <= 0) return false;
      char buffer[4096];
      const ssize_t n = read(output_, buffer, sizeof(buffer));
      if (n <= 0) return false;
      words_.append(buffer, static_cast<size_t>(n));
    }
    return true;
  }

  /// The exit code, or nothing if it does not end in time. Its end is when stderr closes.
  std::optional<int> wait_for_exit(milliseconds limit) {
    wait_for("\x01 never printed", limit);
    const Clock::time_point deadline = Clock::now() + limit;
    int status = 0;
    while (waitpid(pid_, &status, WNOHANG) == 0) {
      if (Clock::now() > deadline) return std::nullopt;
      poll(nullptr, 0, 1);
    }
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return code_;
  }

 private:
  pid_t pid_ = -1;
  int output_ = -1;
  std::string words_;
  std::optional<int> code_;
};

/// Processes below `root`, by their command lines.
std::vector<std::pair<pid_t, std::string>> descendants(pid_t root) {
  std::vector<std::pair<pid_t, pid_t>> parents;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (!std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      continue;
    }
    std::ifstream file(entry.path() / "stat");
    std::string stat((std::istreambuf_iterator<char>(file)), {});
    const size_t end = stat.rfind(')');
    if (end == std::string::npos) continue;
    std::istringstream rest(stat.substr(end + 1));
    char state = 0;
    pid_t parent = 0;
    rest >> state >> parent;
    if (state != 'Z') parents.emplace_back(std::stoi(name), parent);
  }
  std::vector<pid_t> below = {root};
  std::vector<std::pair<pid_t, std::string>> out;
  for (size_t i = 0; i < below.size(); ++i) {
    for (const auto& [pid, parent] : parents) {
      if (parent != below[i]) continue;
      below.push_back(pid);
      std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline");
      std::string line((std::istreambuf_iterator<char>(file)), {});
      std::replace(line.begin(), line.end(), '\0', ' ');
      out.emplace_back(pid, line);
    }
  }
  return out;
}

std::vector<pid_t> workers_of(pid_t root) {
  std::vector<pid_t> out;
  for (const auto& [pid, line] : descendants(root)) {
    if (line.find("fourfold worker") != std::string::npos &&
        line.find("mpirun") == std::string::npos) {
      out.push_back(pid);
    }
  }
  return out;
}

class VerifyFaults : public testing::Test {
 protected:
  VerifyFaults() {
    std::string pattern = std::filesystem::temp_directory_path() / "fourfold-faults-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    std::filesystem::create_directory(folder_ / "tmp");
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
      shared_before_.push_back(entry.path());
    }
  }
  ~VerifyFaults() override {
    std::error_code error;  // a process that lives may still remove its own
    std::filesystem::remove_all(folder_, error);
  }

  std::vector<std::string> arguments(const std::string& schemes) const {
    return {"verify",        "tiny", "--schemes",   schemes,
            "--concurrency", "2",    "--input-len", "16",
            "--output-len",  "64",   "--requests",  "120",
            "--repeats",     "1",    "--json",      (folder_ / "out.json").string()};
  }

  void expect_nothing_left(const std::vector<pid_t>& workers) {
    for (const pid_t pid : workers) EXPECT_NE(kill(pid, 0), 0) << "worker " << pid << " lives";
    EXPECT_TRUE(std::filesystem::is_empty(folder_ / "tmp")) << folder_ / "tmp";
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
      EXPECT_NE(std::find(shared_before_.begin(), shared_before_.end(), entry.path()),
                shared_before_.end())
          << entry.path();
    }
  }

  nlohmann::json report() const {
    return nlohmann::json::parse(std::ifstream(folder_ / "out.json"));
  }

  std::filesystem::path folder_;
  std::vector<std::filesystem::path> shared_before_;
};

TEST_F(VerifyFaults, AKilledRankIsNamedWithinASecondAndTheOtherSchemesRun) {
  Program program(arguments("tp2,pp2"), folder_ / "tmp");
  ASSERT_TRUE(program.wait_for("tp2: repeat 1/1, c2", milliseconds(30'000)));
  const std::vector<pid_t> workers = workers_of(program.pid());
  ASSERT_EQ(workers.size(), 2U);
  kill(workers[1], SIGKILL);
  // The next scheme starts when this one has been given up.
  EXPECT_TRUE(program.wait_for("pp2", milliseconds(1'000)));
  EXPECT_EQ(program.wait_for_exit(milliseconds(60'000)), 1);

  for (const nlohmann::json& scheme : report().at("schemes")) {
    const std::string failure = scheme.at("failure");
    if (scheme.at("scheme") == "tp2") {
      EXPECT_THAT(failure, HasSubstr("rank "));
      EXPECT_THAT(failure, HasSubstr("stage 0"));
      EXPECT_THAT(failure, HasSubstr(std::to_string(workers[1])));
    } else {
      EXPECT_EQ(failure, "") << scheme.at("scheme");
      EXPECT_TRUE(scheme.at("answers").at("equal"));
    }
  }
  expect_nothing_left(workers);
}

TEST_F(VerifyFaults, AHungRankIsNamedWhereItHangsAndTheOtherSchemesRun) {
  // Of the schemes only tp2 has layer 3 on a rank 1.
  Program program(arguments("tp2,pp2"), folder_ / "tmp",
                  "rank=1 step=20 layer=3 op=mlp action=hang");
  EXPECT_EQ(program.wait_for_exit(milliseconds(90'000)), 1);
  for (const nlohmann::json& scheme : report().at("schemes")) {
    const std::string failure = scheme.at("failure");
    if (scheme.at("scheme") == "tp2") {
      EXPECT_THAT(failure, HasSubstr("rank 1 (stage 0, replica 0, shard 1, pid "));
      EXPECT_THAT(failure, HasSubstr(") hangs in step 20, layer 3, mlp for "));
    } else {
      EXPECT_EQ(failure, "") << scheme.at("scheme");
    }
  }
  expect_nothing_left({});
}

TEST_F(VerifyFaults, AnAnswerThatARankSpoilsIsFoundInItsLayer) {
  Program program(arguments("tp2"), folder_ / "tmp", "rank=1 layer=3 op=mlp action=corrupt");
  EXPECT_EQ(program.wait_for_exit(milliseconds(90'000)), 1);
  const nlohmann::json report = this->report();
  const auto tp2 =
      std::find_if(report.at("schemes").begin(), report.at("schemes").end(),
                   [](const nlohmann::json& scheme) { return scheme.at("scheme") == "tp2"; });
  ASSERT_NE(tp2, report.at("schemes").end());
  EXPECT_FALSE(tp2->at("answers").at("equal"));
  EXPECT_EQ(tp2->at("answers").at("first_difference").at("layer"), 3);
}

TEST_F(VerifyFaults, CtrlCEndsEverythingWithinASecond) {
  Program program(arguments("tp2pp2"), folder_ / "tmp");
  ASSERT_TRUE(program.wait_for("tp2pp2: repeat 1/1, c2", milliseconds(30'000)));
  const std::vector<pid_t> workers = workers_of(program.pid());
  ASSERT_EQ(workers.size(), 4U);
  kill(program.pid(), SIGINT);
  const std::optional<int> code = program.wait_for_exit(milliseconds(1'000));
  ASSERT_TRUE(code);
  EXPECT_NE(*code, 0);
  expect_nothing_left(workers);
}

TEST_F(VerifyFaults, CtrlCKeepsTheRepeatsThatEverySchemeFinished) {
  std::vector<std::string> twice = arguments("tp2pp2");
  *(std::find(twice.begin(), twice.end(), "--repeats") + 1) = "2";
  Program program(twice, folder_ / "tmp");
  ASSERT_TRUE(program.wait_for("tp2pp2: repeat 2/2, c2", milliseconds(90'000)));
  kill(program.pid(), SIGINT);
  EXPECT_EQ(program.wait_for_exit(milliseconds(10'000)), 1);
  const nlohmann::json report = this->report();
  EXPECT_TRUE(report.at("interrupted"));
  EXPECT_EQ(report.at("load").at("repeats"), 1);
  for (const nlohmann::json& scheme : report.at("schemes")) {
    EXPECT_EQ(scheme.at("failure"), "");
    EXPECT_TRUE(scheme.at("answers").at("equal")) << scheme.at("scheme");
    ASSERT_EQ(scheme.at("loads").size(), 1U);
    EXPECT_EQ(scheme.at("loads")[0].at("requests"), 120) << "of the finished repeat alone";
  }
  expect_nothing_left({});
}

}  // namespace
}  // namespace fourfold::tests
