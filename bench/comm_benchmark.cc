// All-reduce of ranks as processes of one host: through shared memory as `fourfold` does it, in f32
// and in bf16, and MPI_Allreduce in f32 in the same job for comparison.
//
//   comm_benchmark            runs 2, 4 and 8 ranks, one mpirun each
//   comm_benchmark --ranks    is one rank of such a job
//
// Microseconds, medians over rounds; a round times a row of calls of one kind, and the kinds take
// turns. Bytes are those of f32. MPI/own is the ratio to f32, wait the share of own f32 and bf16
// calls that waits for peers. Ranks are pinned where each can have a core.

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "comm/mpi/mpi_api.h"
#include "comm/mpi/mpi_runtime.h"
#include "comm/waiting.h"

namespace fourfold::comm {
namespace {

constexpr int kRounds = 31;

/// Microseconds of one call of `run`, over a row of `calls`.
template <typename Run>
double time_us(Communicator& comm, int calls, Run run) {
  comm.barrier();
  const int64_t begin_ns = base::SteadyClock().now_ns();
  for (int i = 0; i < calls; ++i) run();
  return base::seconds_between(begin_ns, base::SteadyClock().now_ns()) * 1e6 / calls;
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void measure(Communicator& comm, int64_t bytes) {
  const int calls = static_cast<int>(std::clamp<int64_t>((int64_t{8} << 20) / bytes, 4, 500));
  std::vector<float> data(static_cast<size_t>(bytes / 4), 0.0F);
  std::vector<double> f32;
  std::vector<double> bf16;
  std::vector<double> mpi;
  const CommStats before = comm.stats();
  for (int round = 0; round < kRounds; ++round) {
    f32.push_back(time_us(comm, calls, [&] { comm.all_reduce_sum(data, Wire::kF32); }));
    bf16.push_back(time_us(comm, calls, [&] { comm.all_reduce_sum(data, Wire::kBF16); }));
    mpi.push_back(time_us(comm, calls, [&] {
      MPI_Allreduce(MPI_IN_PLACE, data.data(), static_cast<int>(data.size()), MPI_FLOAT, MPI_SUM,
                    MPI_COMM_WORLD);
    }));
  }
  if (comm.rank() != 0) return;
  const double wait =
      (comm.stats().wait_seconds - before.wait_seconds) / (comm.stats().seconds - before.seconds);
  const double own = median_of(f32);
  fmt::print("{:5} {:8} {:9.1f} {:9.1f} {:9.1f} {:8.2f} {:5.0f}%\n", comm.size(), bytes, own,
             median_of(bf16), median_of(mpi), median_of(mpi) / own, wait * 100);
}

int play_rank() {
  const auto cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const int ranks = std::atoi(std::getenv("OMPI_COMM_WORLD_SIZE"));
  auto runtime = MpiRuntime::start({.waiting = ranks <= cores ? Waiting::kSpin : Waiting::kSleep});
  CHECK(runtime.ok(), "{}", runtime.error().message);
  const auto comm = (*runtime)->world();
  if (ranks <= cores) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<size_t>(comm->rank()), &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0, "cannot pin rank {}", comm->rank());
  }
  ask_for_prompt_wakeups();
  for (int64_t bytes = 1 << 10; bytes <= 4 << 20; bytes *= 2) measure(*comm, bytes);
  return 0;
}

int run_jobs() {
  fmt::print("{} cores\n", sysconf(_SC_NPROCESSORS_ONLN));
  fmt::print("ranks    bytes   own f32  own bf16   MPI f32  MPI/own   wait\n");
  std::fflush(stdout);
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  for (const int ranks : {2, 4, 8}) {
    const std::string command = fmt::format(
        "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1 "
        "mpirun -n {} --oversubscribe --bind-to none --mca pml ob1 --mca btl self,vader '{}' "
        "--ranks",
        ranks, self);
    if (std::system(command.c_str()) != 0) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace fourfold::comm

int main(int argc, char** argv) {
  const bool is_rank = argc > 1 && std::string_view(argv[1]) == "--ranks";
  return is_rank ? fourfold::comm::play_rank() : fourfold::comm::run_jobs();
}
