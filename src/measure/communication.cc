#include <sched.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>
#include <utility>

#include "backend/ops.h"
#include "base/machine.h"
#include "comm/local/local_world.h"
#include "comm/mpi/mpi_runtime.h"
#include "measure/collectives.h"
#include "runtime/launch/child_process.h"
#include "runtime/launch/interrupt.h"
#include "runtime/launch/rank_command.h"
#include "runtime/launch/run_dir.h"

namespace fourfold::measure {
namespace {

constexpr const char* kCommand = "comm-rank";
constexpr const char* kThreads = "threads";
constexpr const char* kProcesses = "processes";
constexpr const char* kMpi = "mpi";
constexpr const char* kGpus = "gpus";
constexpr const char* kNccl = "nccl";

/// Ranks get a core each where there are enough, as those of a model do.
bool pinned(int ranks) { return std::ssize(base::usable_cpus()) >= ranks; }

void pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof(set), &set);  // unpinned is slower and still right
}

comm::Waiting waiting(int ranks) {
  return pinned(ranks) ? comm::Waiting::kSpin : comm::Waiting::kSleep;
}

std::vector<Figure> measure_threads(const CollectiveOptions& options) {
  comm::LocalWorld world(options.ranks, waiting(options.ranks));
  const std::vector<int> cpus = base::usable_cpus();
  std::vector<Figure> out;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      if (pinned(options.ranks)) pin_to(cpus[static_cast<size_t>(rank)]);
      const std::unique_ptr<comm::Communicator> group = world.communicator(rank);
      std::vector<Figure> figures = measure_collectives(*group, kThreads, options);
      if (rank == 0) out = std::move(figures);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return out;
}

/// Everything that a rank process has to know, as its arguments: comm-rank FILE HOW WIRE RANKS
/// REPEATS SIZES...
std::vector<std::string> rank_args(const std::string& program, const std::filesystem::path& file,
                                   const char* how, const CollectiveOptions& options) {
  std::vector<std::string> args = {program,
                                   kCommand,
                                   file.string(),
                                   how,
                                   options.wire == comm::Wire::kBF16 ? "bf16" : "f32",
                                   std::to_string(options.ranks),
                                   std::to_string(options.repeats)};
  for (const int64_t size : options.sizes) args.push_back(std::to_string(size));
  return args;
}

base::Result<std::vector<Figure>> measure_processes(const char* how,
                                                    const CollectiveOptions& options,
                                                    const Progress& progress) {
  FF_ASSIGN(const runtime::RunDir run_dir, runtime::RunDir::create());
  FF_ASSIGN(const std::string program, runtime::program_file({}));
  const std::filesystem::path file = run_dir.path() / "figures.json";
  FF_ASSIGN(const runtime::ChildProcess::Options command,
            runtime::processes_command(options.ranks, pinned(options.ranks),
                                       rank_args(program, file, how, options), run_dir.path()));
  FF_ASSIGN(runtime::ChildProcess child, runtime::ChildProcess::spawn(command));
  std::optional<int> status;
  for (int tenths = 0; !status; ++tenths) {
    status = child.wait_exit(std::chrono::milliseconds(100));
    if (runtime::interrupted()) return base::fail("interrupted");
    if (tenths % 10 == 9) progress(fmt::format("{}: {} s", how, (tenths + 1) / 10));
  }
  if (*status != 0) {
    return base::fail("the ranks over {}: {}{}", how, runtime::describe_exit(*status),
                      runtime::last_words(command.output, runtime::Speaker::kMpirunToo));
  }
  FF_ASSIGN(Results results, read_results(file.string()));
  return std::move(results.figures);
}

base::Result<int64_t> parse_number(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return value;
  return base::fail("\"{}\" is not a number", text);
}

base::Result<CollectiveOptions> parse_options(const std::vector<std::string>& args) {
  CollectiveOptions options;
  if (args.size() < 7) return base::fail("a rank of fourfold bench comm, which starts it itself");
  options.wire = args[3] == "bf16" ? comm::Wire::kBF16 : comm::Wire::kF32;
  FF_ASSIGN(const int64_t ranks, parse_number(args[4]));
  FF_ASSIGN(const int64_t repeats, parse_number(args[5]));
  options.ranks = static_cast<int>(ranks);
  options.repeats = static_cast<int>(repeats);
  for (size_t i = 6; i < args.size(); ++i) {
    FF_ASSIGN(const int64_t size, parse_number(args[i]));
    options.sizes.push_back(size);
  }
  return options;
}

base::Status run_rank(const std::vector<std::string>& args) {
  FF_ASSIGN(const CollectiveOptions options, parse_options(args));
  const std::string& how = args[2];
  FF_ASSIGN(
      const std::unique_ptr<comm::MpiRuntime> mpi,
      comm::MpiRuntime::start({.shared_memory = how != kMpi, .waiting = waiting(options.ranks)}));
  if (pinned(options.ranks)) {
    pin_to(base::usable_cpus()[static_cast<size_t>(mpi->rank())]);
  }
  const std::unique_ptr<comm::Communicator> group = mpi->world();
  Results results{.kind = "comm", .figures = {}};
  if (how == kGpus || how == kNccl) {
    FF_ASSIGN(results.figures, measure_device_collectives(*group, how, options,
                                                          how == kNccl ? comm::DevicePaths::kNccl
                                                                       : comm::DevicePaths::kAll));
  } else {
    results.figures = measure_collectives(*group, how, options);
  }
  if (mpi->rank() != 0) return {};
  std::ofstream file(args[1]);
  file << to_json(results);
  file.close();
  return file ? base::Status() : base::fail("{} cannot be written", args[1]);
}

}  // namespace

base::Result<std::vector<Figure>> measure_communication(const CollectiveOptions& options,
                                                        const Progress& progress) {
  progress(fmt::format("{}: 0 s", kThreads));
  std::vector<Figure> out = measure_threads(options);
  std::vector<const char*> ways = {kProcesses, kMpi};
  if (const auto ops = backend::make_ops("cuda", ""); ops.ok() && (*ops)->gpus() >= options.ranks) {
    ways.insert(ways.end(), {kGpus, kNccl});
  }
  for (const char* how : ways) {
    progress(fmt::format("{}: 0 s", how));
    const base::Result<std::vector<Figure>> figures = measure_processes(how, options, progress);
    if (!figures.ok()) {
      // What the processor's ranks gave is worth having without that.
      const bool on_gpus = how == kGpus || how == kNccl;
      if (!on_gpus || runtime::interrupted()) return figures.error();
      progress(fmt::format("left out: {}\n", figures.error().message));
      continue;
    }
    out.insert(out.end(), figures->begin(), figures->end());
  }
  return out;
}

int comm_rank_main(int argc, char** argv) {
  try {
    const base::Status status = run_rank({argv, argv + argc});
    if (status.ok()) return 0;
    fmt::print(stderr, "{}\n", status.error().message);
  } catch (const comm::CommAborted& aborted) {
    fmt::print(stderr, "{}\n", aborted.reason);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
  }
  return 1;
}

}  // namespace fourfold::measure
