#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/mpi/mpi_api.h"
#include "comm/mpi/mpi_runtime.h"

namespace fourfold::comm {

/// An MPI communicator that is freed at the end.
class MpiGroup {
 public:
  MpiGroup(MPI_Comm comm, const MpiRuntime::Options& options) : comm_(comm), options_(options) {}
  ~MpiGroup();
  MpiGroup(MpiGroup&& other) noexcept;
  MpiGroup& operator=(MpiGroup&&) = delete;

  MPI_Comm comm() const { return comm_; }
  int rank() const;
  int size() const;

  /// Communicator::split.
  std::unique_ptr<Communicator> split(int color, int key, mesh::Axis axis) const;

  /// The fitting Communicator over this group: shared memory where all ranks are on one host and
  /// may use it, else MPI. Collective.
  static std::unique_ptr<Communicator> make_communicator(MpiGroup group, mesh::Axis axis);

 private:
  bool on_one_host() const;

  MPI_Comm comm_;
  MpiRuntime::Options options_;
};

/// Throws CommAborted where an MPI call did not succeed.
void check_mpi(int code, const char* call);

}  // namespace fourfold::comm
