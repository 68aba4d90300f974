#include "comm/mpi/mpi_runtime.h"

#include <cstdlib>

#include "base/log.h"
#include "comm/mpi/mpi_api.h"
#include "comm/mpi/mpi_group.h"

namespace fourfold::comm {

base::Result<std::unique_ptr<MpiRuntime>> MpiRuntime::start(const Options& options) {
  int started = 0;
  MPI_Initialized(&started);
  CHECK(started == 0, "MPI was started before in this process");
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
    return base::fail("MPI_Init_thread failed; was this process started by mpirun?");
  }
  if (provided < MPI_THREAD_FUNNELED) {
    return base::fail("this MPI allows no threads beside its own: expected MPI_THREAD_FUNNELED");
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return std::unique_ptr<MpiRuntime>(new MpiRuntime(options, rank, size));
}

MpiRuntime::~MpiRuntime() { MPI_Finalize(); }

std::unique_ptr<Communicator> MpiRuntime::world() {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &copy), "MPI_Comm_dup");
  return MpiGroup::make_communicator(MpiGroup(copy, options_), mesh::Axis::kControl);
}

void MpiRuntime::progress() {
  // Any probe moves all messages of this process.
  int arrived = 0;
  check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &arrived, MPI_STATUS_IGNORE),
            "MPI_Iprobe");
}

void MpiRuntime::abort(std::string_view reason) {
  spdlog::error("rank {}: {}", rank_, reason);
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::abort();
}

}  // namespace fourfold::comm
