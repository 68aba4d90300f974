#pragma once

#include <filesystem>

#include "base/result.h"

namespace fourfold::runtime {

/// A private temporary folder (mode 0700, in $TMPDIR or /tmp) that holds everything a group of
/// processes leaves in the file system: its control socket, its output and Open MPI's session.
/// Removed with all it holds when the object dies; if the front is killed, the guard does that.
class RunDir {
 public:
  static base::Result<RunDir> create();
  RunDir(RunDir&& other) noexcept;
  RunDir& operator=(RunDir&&) = delete;
  ~RunDir();

  const std::filesystem::path& path() const { return path_; }

  /// The files of a group in its folder.
  static std::filesystem::path control_socket(const std::filesystem::path& run_dir) {
    return run_dir / "control";
  }
  static std::filesystem::path output(const std::filesystem::path& run_dir) {
    return run_dir / "output";
  }
  /// Removes what create() made, front and guard maybe at the same time. Leaves alone what cannot
  /// have come from there, because the path reaches the guard as an argument.
  static void remove(const std::filesystem::path& run_dir);

 private:
  explicit RunDir(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace fourfold::runtime
