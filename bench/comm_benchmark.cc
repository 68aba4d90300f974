// All-reduce latency of ranks as processes of one host: through shared memory as `fourfold` does
// it, and MPI_Allreduce in the same job for comparison.
//
//   comm_benchmark            runs 2, 4 and 8 ranks, one mpirun each
//   comm_benchmark --ranks    is one rank of such a job
//
// Microseconds, best and median over rounds; a round times a row of calls of one kind, and the
// kinds take turns. MPI/own is the ratio of the medians, wait the share of the time until the
// slowest rank arrived.

#include <fmt/format.h>
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

namespace fourfold::comm {
namespace {

constexpr int kRounds = 51;

/// Microseconds of one call of `run`, over a row of `calls`.
template <typename Run>
double time_us(Communicator& comm, int calls, Run run) {
  comm.barrier();
  const int64_t begin_ns = base::SteadyClock().now_ns();
  for (int i = 0; i < calls; ++i) run();
  return base::seconds_between(begin_ns, base::SteadyClock().now_ns()) * 1e6 / calls;
}

struct Spread {
  double best = 0;
  double median = 0;
};

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {.best = values.front(), .median = values[values.size() / 2]};
}

void measure(Communicator& comm, int64_t bytes) {
  const int calls = static_cast<int>(std::clamp<int64_t>((int64_t{8} << 20) / bytes, 10, 200));
  std::vector<float> data(static_cast<size_t>(bytes / 4), 0.0F);
  std::vector<double> own;
  std::vector<double> mpi;
  const CommStats before = comm.stats();
  for (int round = 0; round < kRounds; ++round) {
    own.push_back(time_us(comm, calls, [&] { comm.all_reduce_sum(data, Wire::kF32); }));
    mpi.push_back(time_us(comm, calls, [&] {
      MPI_Allreduce(MPI_IN_PLACE, data.data(), static_cast<int>(data.size()), MPI_FLOAT, MPI_SUM,
                    MPI_COMM_WORLD);
    }));
  }
  if (comm.rank() != 0) return;
  const double wait =
      (comm.stats().wait_seconds - before.wait_seconds) / (comm.stats().seconds - before.seconds);
  const Spread a = spread_of(own);
  const Spread b = spread_of(mpi);
  fmt::print("{:5} {:8} {:9.1f} {:9.1f} {:9.1f} {:9.1f} {:7.2f} {:6.0f}%\n", comm.size(), bytes,
             a.best, a.median, b.best, b.median, b.median / a.median, wait * 100);
}

int play_rank() {
  auto runtime = MpiRuntime::start({});
  CHECK(runtime.ok(), "{}", runtime.error().message);
  const auto comm = (*runtime)->world();
  for (const int64_t bytes : {8 << 10, 64 << 10, 1 << 20}) measure(*comm, bytes);
  return 0;
}

int run_jobs() {
  fmt::print("{} cores\n", sysconf(_SC_NPROCESSORS_ONLN));
  fmt::print("ranks    bytes  own best    median  MPI best    median MPI/own    wait\n");
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
