#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace fourfold::runtime {

/// A child of this process in a process group of its own, so that a terminal's Ctrl-C reaches the
/// front alone. Killed and reaped when the object dies.
///
/// No parent-death signal: Linux ties it to the thread that started the child, not to the process.
/// Workers notice the end of the front by their control channel.
class ChildProcess {
 public:
  struct Options {
    std::vector<std::string> args;         ///< args[0] is a path
    std::vector<std::string> environment;  ///< "NAME=value", on top of this process's own
    std::filesystem::path output;          ///< gets its stdout and stderr; stdin is empty
  };
  static base::Result<ChildProcess> spawn(const Options& options);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess() { kill(); }

  pid_t pid() const { return pid_; }

  /// Waits until it has ended, at most so long. The status is as waitpid gives it, and stays.
  std::optional<int> wait_exit(std::chrono::milliseconds limit);

  /// SIGKILL to its process group, if it has not ended.
  void kill();

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}

  pid_t pid_ = -1;
  std::optional<int> status_;
};

/// "was killed by SIGKILL" or "exited with status 3".
std::string describe_exit(int wait_status);

/// The path of an executable that the shell would find, or nothing.
std::optional<std::filesystem::path> find_in_path(const std::string& name);

}  // namespace fourfold::runtime
