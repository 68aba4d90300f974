#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/support/processes.h"

namespace fourfold::tests {

/// `fourfold serve`, or `route`, as a process of its own. Killed with its ranks when the object
/// dies.
class ServeProcess {
 public:
  explicit ServeProcess(std::vector<std::string> arguments, const std::string& command = "serve") {
    arguments.insert(arguments.begin(), {FOURFOLD_BINARY, command});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    output_ = ends[0];
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      dup2(ends[1], STDERR_FILENO);
      execv(FOURFOLD_BINARY, argv.data());
      _exit(127);
    }
    close(ends[1]);
  }
  ~ServeProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(output_);
  }
  ServeProcess(const ServeProcess&) = delete;
  ServeProcess& operator=(const ServeProcess&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const { kill(pid_, number); }

  /// What it has printed, up to `text`; all of it if it ends before.
  const std::string& read_until(const std::string& text) {
    std::array<char, 4096> bytes;
    while (printed_.find(text) == std::string::npos) {
      const ssize_t count = read(output_, bytes.data(), bytes.size());
      if (count <= 0) break;
      printed_.append(bytes.data(), static_cast<size_t>(count));
    }
    return printed_;
  }

  /// The port that it serves, once it does; 0 if it has ended instead.
  uint16_t port() {
    const std::string before = " at http://127.0.0.1:";
    read_until("curl ");
    const size_t at = printed_.find(before);
    if (at == std::string::npos) return 0;
    return static_cast<uint16_t>(std::atoi(printed_.c_str() + at + before.size()));
  }

  /// Its exit code, once it has ended; -1 for a signal.
  int wait() {
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
  int output_ = -1;
  std::string printed_;
};

}  // namespace fourfold::tests
