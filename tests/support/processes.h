#pragma once

#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fourfold::tests {

/// A process as /proc shows it.
struct Process {
  pid_t pid = -1;
  pid_t parent = -1;
  bool zombie = false;
  std::vector<std::string> args;
  std::vector<std::string> environment;
};

/// Empty if the process ends meanwhile.
inline std::string read_proc(pid_t pid, const char* name) {
  std::string text;
  std::FILE* file = std::fopen(("/proc/" + std::to_string(pid) + "/" + name).c_str(), "rb");
  if (file == nullptr) return text;
  char chunk[4096];
  for (size_t n = 0; (n = std::fread(chunk, 1, sizeof chunk, file)) > 0;) text.append(chunk, n);
  std::fclose(file);
  return text;
}

inline std::vector<std::string> split_zeros(const std::string& text) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\0', begin);
    out.push_back(text.substr(begin, end - begin));
    begin = end == std::string::npos ? text.size() : end + 1;
  }
  return out;
}

/// Nothing if there is no such process.
inline std::optional<Process> find_process(pid_t pid) {
  const std::string stat = read_proc(pid, "stat");
  const size_t name_end = stat.rfind(") ");
  if (name_end == std::string::npos) return std::nullopt;
  Process process;
  process.pid = pid;
  process.zombie = stat[name_end + 2] == 'Z' || stat[name_end + 2] == 'X';
  process.parent = std::atoi(stat.c_str() + name_end + 4);
  process.args = split_zeros(read_proc(pid, "cmdline"));
  process.environment = split_zeros(read_proc(pid, "environ"));
  return process;
}

/// A zombie is dead: only its parent has not looked yet.
inline bool is_alive(pid_t pid) {
  const std::optional<Process> process = find_process(pid);
  return process && !process->zombie;
}

/// The living children of `root`, their children, and so on.
inline std::vector<Process> descendants(pid_t root) {
  std::map<pid_t, Process> all;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0) continue;
    if (std::optional<Process> process = find_process(pid)) all.emplace(pid, *process);
  }
  std::vector<Process> out;
  for (const auto& [pid, process] : all) {
    pid_t ancestor = process.parent;
    while (ancestor != root && all.contains(ancestor)) ancestor = all.at(ancestor).parent;
    if (ancestor == root && !process.zombie) out.push_back(process);
  }
  return out;
}

/// The ranks among the descendants of `root`, by rank: fourfold processes in their role as workers.
inline std::map<int, pid_t> ranks_of(pid_t root) {
  std::map<int, pid_t> ranks;
  for (const Process& process : descendants(root)) {
    if (process.args.size() < 2 || process.args[0] != FOURFOLD_BINARY ||
        process.args[1] != "worker") {
      continue;
    }
    int rank = 0;
    for (const std::string& variable : process.environment) {
      constexpr std::string_view kName = "OMPI_COMM_WORLD_RANK=";
      if (variable.starts_with(kName)) rank = std::atoi(variable.c_str() + kName.size());
    }
    ranks[rank] = process.pid;
  }
  return ranks;
}

/// A rank as the operating system knows it.
struct RankProcess {
  pid_t pid = -1;
  int rank = 0;         ///< within its group
  std::string run_dir;  ///< of its group
};

/// All ranks of all groups among the descendants of `root`.
inline std::vector<RankProcess> rank_processes(pid_t root) {
  std::vector<RankProcess> out;
  for (const Process& process : descendants(root)) {
    if (process.args.size() < 4 || process.args[0] != FOURFOLD_BINARY ||
        process.args[1] != "worker") {
      continue;
    }
    RankProcess rank{.pid = process.pid, .rank = 0, .run_dir = process.args[2]};
    constexpr std::string_view kName = "OMPI_COMM_WORLD_RANK=";
    for (const std::string& variable : process.environment) {
      if (variable.starts_with(kName)) rank.rank = std::atoi(variable.c_str() + kName.size());
    }
    out.push_back(rank);
  }
  return out;
}

/// Waits until `done`, at most so long; false if it never was.
template <typename Done>
bool wait_for(std::chrono::milliseconds limit, Done done) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    poll(nullptr, 0, 2);
  }
  return true;
}

}  // namespace fourfold::tests
