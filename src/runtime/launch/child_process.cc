#include "runtime/launch/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <utility>

#include "base/check.h"

namespace fourfold::runtime {
namespace {

constexpr int kTickMs = 5;
constexpr std::chrono::seconds kEndLimit(2);

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& text : strings) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

/// What the child starts with: its own process group, no blocked or ignored signals, its
/// files.
class SpawnSettings {
 public:
  SpawnSettings(int input, const std::filesystem::path& output) {
    sigset_t set;
    sigemptyset(&set);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &set);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) sigaddset(&set, signal);
    posix_spawnattr_setsigdefault(&attributes, &set);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, input, STDIN_FILENO);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, output.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
  ~SpawnSettings() {
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
  }

  posix_spawnattr_t attributes;
  posix_spawn_file_actions_t files;
};

}  // namespace

base::Result<ChildProcess> ChildProcess::spawn(const Options& options) {
  std::vector<std::string> args = options.args;
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  environment.insert(environment.end(), options.environment.begin(), options.environment.end());
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return base::fail("no pipe: {}", std::strerror(errno));
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const SpawnSettings settings(read_end.get(), options.output);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, args.at(0).c_str(), &settings.files, &settings.attributes,
                                pointers(args).data(), pointers(environment).data());
  if (error != 0) return base::fail("cannot start {}: {}", args[0], std::strerror(error));
  return ChildProcess(pid, std::move(write_end));
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      input_(std::move(other.input_)),
      status_(other.status_) {}

std::optional<int> ChildProcess::wait_exit(std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!status_) {
    int status = 0;
    const pid_t ended = waitpid(pid_, &status, WNOHANG);
    CHECK(ended >= 0 || errno == EINTR, "waitpid({}): {}", pid_, std::strerror(errno));
    if (ended == pid_) {
      status_ = status;
    } else if (std::chrono::steady_clock::now() >= deadline) {
      break;
    } else {
      poll(nullptr, 0, kTickMs);
    }
  }
  return status_;
}

void ChildProcess::end() {
  input_ = UniqueFd();
  if (pid_ < 0 || wait_exit(kEndLimit)) return;
  kill(-pid_, SIGKILL);
  wait_exit(kEndLimit);
}

std::string describe_exit(int wait_status) {
  if (WIFEXITED(wait_status)) return fmt::format("exited with status {}", WEXITSTATUS(wait_status));
  const char* name = sigabbrev_np(WTERMSIG(wait_status));
  if (name == nullptr) return fmt::format("was killed by signal {}", WTERMSIG(wait_status));
  return fmt::format("was killed by SIG{}", name);
}

std::optional<std::filesystem::path> find_in_path(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::filesystem::path file = std::filesystem::path(folder) / name;
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return std::nullopt;
}

}  // namespace fourfold::runtime
