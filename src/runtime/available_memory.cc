#include "runtime/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace fourfold::runtime {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kUnknown = int64_t{1} << 30;
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

/// Names of a control group's files, which differ by version.
struct GroupFiles {
  const char* limit;
  const char* usage;
  const char* droppable;  ///< key in memory.stat, of the group and those below it
};
constexpr GroupFiles kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                  "total_inactive_file"};
constexpr GroupFiles kVersion2 = {"memory.max", "memory.current", "inactive_file"};

/// The number in a file of one number; nothing where there is none, as in "max".
std::optional<int64_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

/// The number after `key` in a file of lines "key number ...".
std::optional<int64_t> number_of(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  int64_t value = 0;
  std::string rest;
  while (file >> name >> value) {
    std::getline(file, rest);
    if (name == key) return value;
  }
  return std::nullopt;
}

/// What the group at `folder` and those above it, up to `top`, leave.
int64_t left_by_groups(fs::path folder, const fs::path& top, const GroupFiles& files) {
  int64_t least = kNoLimit;
  while (true) {
    const std::optional<int64_t> limit = number_in(folder / files.limit);
    const std::optional<int64_t> usage = number_in(folder / files.usage);
    if (limit && usage) {
      const int64_t droppable = number_of(folder / "memory.stat", files.droppable).value_or(0);
      const int64_t held = std::max(int64_t{0}, *usage - droppable);
      least = std::min(least, std::max(int64_t{0}, *limit - held));
    }
    if (folder == top || !folder.has_relative_path()) return least;
    folder = folder.parent_path();
  }
}

/// True where "cpu,memory" names the memory controller.
bool has_memory(const std::string& controllers) {
  return ("," + controllers + ",").find(",memory,") != std::string::npos;
}

}  // namespace

int64_t available_memory_bytes(const fs::path& root) {
  int64_t least = kNoLimit;
  if (const auto kib = number_of(root / "proc/meminfo", "MemAvailable:")) least = *kib * 1024;
  // Lines "hierarchy:controllers:path"; version 2 has hierarchy 0 and no controllers. A container
  // may see the path of its host, of which only the top is mounted.
  std::ifstream groups(root / "proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path path = fs::path(line.substr(second + 1)).relative_path();
    if (controllers.empty()) {
      const fs::path top = root / "sys/fs/cgroup";
      least = std::min(least, left_by_groups(path.empty() ? top : top / path, top, kVersion2));
    } else if (has_memory(controllers)) {
      const fs::path top = root / "sys/fs/cgroup/memory";
      least = std::min(least, left_by_groups(path.empty() ? top : top / path, top, kVersion1));
    }
  }
  return least == kNoLimit ? kUnknown : least;
}

}  // namespace fourfold::runtime
