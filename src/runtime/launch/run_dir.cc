#include "runtime/launch/run_dir.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

namespace fourfold::runtime {
namespace {

constexpr std::string_view kPrefix = "fourfold-";
constexpr std::string_view kUnique = "XXXXXX";
constexpr int kRemoveAttempts = 1000;

}  // namespace

base::Result<RunDir> RunDir::create() {
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::temp_directory_path(error);
  if (error) {
    return base::fail("no folder for temporary files: {}; set TMPDIR to one", error.message());
  }
  std::string path = (parent / kPrefix).string();
  path += kUnique;
  if (mkdtemp(path.data()) == nullptr) {
    return base::fail("cannot make a folder in {}: {}; set TMPDIR to another one", parent.native(),
                      std::strerror(errno));
  }
  return RunDir(path);
}

RunDir::RunDir(RunDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}

RunDir::~RunDir() {
  if (!path_.empty()) remove(path_);
}

void RunDir::remove(const std::filesystem::path& run_dir) {
  const std::string name = run_dir.filename();
  struct stat info {};
  if (!name.starts_with(kPrefix) || name.size() != kPrefix.size() + kUnique.size() ||
      lstat(run_dir.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) ||
      (info.st_mode & 0777) != 0700 || info.st_uid != geteuid()) {
    return;
  }
  // A removal stops where another one was faster, and its next attempt gets further.
  std::error_code error;
  for (int attempt = 0; attempt < kRemoveAttempts; ++attempt) {
    std::filesystem::remove_all(run_dir, error);
    if (!std::filesystem::exists(run_dir, error)) return;
  }
}

}  // namespace fourfold::runtime
