#include "runtime/launch/guard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>

#include "runtime/control/unique_fd.h"
#include "runtime/launch/run_dir.h"

namespace fourfold::runtime {
namespace {

constexpr int kGraceMs = 50;

/// Starts the command with this process's output, an empty stdin and no blocked signals.
pid_t spawn_command(char** command) {
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, command[0], &files, &attributes, command, environ);
  if (error != 0) {
    fmt::print(stderr, "cannot start {}: {}\n", command[0], std::strerror(error));
    pid = -1;
  }
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return pid;
}

/// Waits for the command to exit, or for stdin to end; the exit status in the first case.
std::optional<int> wait_for_end(pid_t command, int child_signals) {
  while (true) {
    pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
                    {.fd = child_signals, .events = POLLIN, .revents = 0}};
    poll(fds, 2, -1);
    signalfd_siginfo info{};
    if (fds[1].revents != 0 && read(child_signals, &info, sizeof info) > 0) {
      // Orphans that came here and ended are reaped by the way.
      int status = 0;
      for (pid_t pid = 0; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == command) return status;
      }
    }
    char byte = 0;
    if (fds[0].revents != 0 && read(STDIN_FILENO, &byte, 1) == 0) return std::nullopt;
  }
}

bool stdin_ends_within(int limit_ms) {
  pollfd fd{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  char byte = 0;
  return poll(&fd, 1, limit_ms) == 1 && read(STDIN_FILENO, &byte, 1) == 0;
}

/// Whoever loses its parent becomes a child of this process, so in the end all pass by here.
void kill_descendants() {
  const std::string children =
      fmt::format("/proc/self/task/{}/children", static_cast<int>(getpid()));
  do {
    std::ifstream file(children);
    for (pid_t pid = 0; file >> pid;) kill(pid, SIGKILL);
  } while (waitpid(-1, nullptr, 0) > 0 || errno == EINTR);
}

/// Exits as a process did that had this status.
int exit_like(int status) {
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  prctl(PR_SET_DUMPABLE, 0);  // the core, if any, is the command's
  raise(WTERMSIG(status));
  return 1;
}

}  // namespace

std::vector<std::string> guard_args(const std::string& program,
                                    const std::filesystem::path& run_dir) {
  return {program, "guard", run_dir.string()};
}

int guard_main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "fourfold guard: watches a group; fourfold starts it itself\n");
    return 2;
  }
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  sigset_t child_signal;
  sigemptyset(&child_signal);
  sigaddset(&child_signal, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_signal, nullptr);
  const UniqueFd child_signals(signalfd(-1, &child_signal, SFD_CLOEXEC));
  const pid_t command = spawn_command(argv + 2);
  if (command < 0 || !child_signals.valid()) return 1;
  const std::optional<int> status = wait_for_end(command, child_signals.get());
  kill_descendants();
  // A command may have ended because the front is gone, which is seen here a moment later.
  if (status && !stdin_ends_within(kGraceMs)) return exit_like(*status);
  RunDir::remove(argv[1]);
  return 0;
}

}  // namespace fourfold::runtime
