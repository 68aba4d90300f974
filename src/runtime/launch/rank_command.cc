#include "runtime/launch/rank_command.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/launch/guard.h"
#include "runtime/launch/run_dir.h"
#include "runtime/launch/worker_main.h"

namespace fourfold::runtime {
namespace {

constexpr int64_t kTailBytes = 16384;
constexpr size_t kTailLines = 6;

std::vector<std::string> mpirun_args(const std::string& mpirun, int count, bool pinned,
                                     const std::filesystem::path& run_dir) {
  const std::string ranks = std::to_string(count);
  std::vector<std::string> args = {
      mpirun, "-n", ranks,
      // This machine alone, whatever batch system we are in; ranks pin themselves.
      "--host", "localhost:" + ranks, "--oversubscribe", "--bind-to", "none",
      // No listening sockets in ranks.
      "--mca", "pml", "ob1", "--mca", "btl", "self,vader",
      // Nothing outside the run directory.
      "--mca", "orte_tmpdir_base", run_dir.string(), "--mca", "btl_vader_backing_directory",
      run_dir.string()};
  // Unpinned ranks outnumber the cores.
  if (!pinned) args.insert(args.end(), {"--mca", "mpi_yield_when_idle", "1"});
  return args;
}

/// mpirun puts its own words between two of these.
bool is_rule(std::string_view line) {
  return line.size() > 20 && line.find_first_not_of('-') == std::string_view::npos;
}

/// What Open MPI writes around words: rules, stack traces and their stars.
bool is_wrapping(std::string_view line) {
  return line.find_first_not_of("- \t\r") == std::string_view::npos ||
         line.find("***") != std::string_view::npos || line.find("] [") != std::string_view::npos;
}

}  // namespace

base::Result<std::string> program_file(const std::string& program) {
  if (!program.empty()) return program;
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return base::fail("cannot find this program's file: {}", error.message());
  return self.string();
}

base::Result<ChildProcess::Options> processes_command(int ranks, bool pinned,
                                                      const std::vector<std::string>& args,
                                                      const std::filesystem::path& run_dir) {
  ChildProcess::Options options{.args = guard_args(args.front(), run_dir),
                                .environment = {},
                                .output = RunDir::output(run_dir)};
  if (ranks > 1) {
    const std::optional<std::filesystem::path> mpirun = find_in_path("mpirun");
    if (!mpirun) {
      return base::fail("mpirun not found in PATH: install openmpi-bin, or use --ranks threads");
    }
    for (std::string& arg : mpirun_args(mpirun->string(), ranks, pinned, run_dir)) {
      options.args.push_back(std::move(arg));
    }
    options.environment = {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"};
    // Multicast over NVLink can put GPUs that others share out of service when a program dies in
    // it, and our own sums are for what it is good at. Whoever wants it sets the variable.
    if (std::getenv("NCCL_NVLS_ENABLE") == nullptr) {
      options.environment.emplace_back("NCCL_NVLS_ENABLE=0");
    }
  }
  options.args.insert(options.args.end(), args.begin(), args.end());
  return options;
}

base::Result<ChildProcess::Options> rank_command(const RankConfig& config,
                                                 const std::string& program,
                                                 const std::filesystem::path& run_dir,
                                                 const std::string& secret) {
  const int ranks = config.group.devices();
  FF_ASSIGN(const std::string self, program_file(program));
  FF_ASSIGN(
      ChildProcess::Options options,
      processes_command(ranks, !config.cpus.empty(), worker_args(self, run_dir, ranks), run_dir));
  options.environment.push_back(std::string(kSecretVariable) + "=" + secret);
  return options;
}

std::string last_words(const std::filesystem::path& output, Speaker speaker) {
  std::ifstream file(output, std::ios::binary | std::ios::ate);
  if (!file) return {};
  file.seekg(std::max<int64_t>(0, static_cast<int64_t>(file.tellg()) - kTailBytes));
  std::vector<std::string> words;
  bool in_mpirun_block = false;
  for (std::string line; std::getline(file, line);) {
    if (is_rule(line)) in_mpirun_block = !in_mpirun_block;
    if (in_mpirun_block && speaker == Speaker::kRanks) continue;
    if (!is_wrapping(line)) words.push_back(line);
  }
  std::string out = words.empty() ? "" : ":";
  const size_t first = words.size() - std::min(words.size(), kTailLines);
  for (size_t i = first; i < words.size(); ++i) out += "\n    " + words[i];
  return out;
}

}  // namespace fourfold::runtime
