#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "runtime/control/unique_fd.h"

namespace fourfold::runtime {

/// A child of this process in a process group of its own, so that a terminal's Ctrl-C reaches the
/// front alone. Its stdin is a pipe that ends when this object or this process does: a guard takes
/// that as the sign to end (launch/guard.h).
///
/// There is no parent-death signal: Linux ties it to the thread that started the child.
class ChildProcess {
 public:
  struct Options {
    std::vector<std::string> args;         ///< args[0] is a path
    std::vector<std::string> environment;  ///< "NAME=value", on top of this process's own
    std::filesystem::path output;          ///< gets its stdout and stderr
  };
  static base::Result<ChildProcess> spawn(const Options& options);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess() { end(); }

  pid_t pid() const { return pid_; }

  /// Waits until it has exited, at most so long. The status is as waitpid gives it, and stays.
  std::optional<int> wait_exit(std::chrono::milliseconds limit);

  /// Closes its stdin and waits until it has exited. Kills its process group if it takes its time.
  void end();

 private:
  ChildProcess(pid_t pid, UniqueFd input) : pid_(pid), input_(std::move(input)) {}

  pid_t pid_ = -1;
  UniqueFd input_;
  std::optional<int> status_;
};

/// "was killed by SIGKILL" or "exited with status 3".
std::string describe_exit(int wait_status);

/// The path of an executable that the shell would find, or nothing.
std::optional<std::filesystem::path> find_in_path(const std::string& name);

}  // namespace fourfold::runtime
