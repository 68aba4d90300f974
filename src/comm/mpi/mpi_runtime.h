#pragma once

#include <memory>
#include <string_view>

#include "base/result.h"
#include "comm/communicator.h"
#include "comm/waiting.h"

namespace fourfold::comm {

/// MPI in this process: ranks as processes, started by mpirun or its like. Made once, by the thread
/// that makes all calls (MPI_THREAD_FUNNELED); outlives every communicator that came from it.
///
/// A group whose ranks are all on one host talks through GroupMemory and touches MPI only while it
/// is split off; any other group uses MPI point to point. Both keep the same order of additions.
class MpiRuntime {
 public:
  struct Options {
    bool shared_memory = true;          ///< false: MPI inside a host, too
    Waiting waiting = Waiting::kSleep;  ///< in shared memory; MPI itself cannot sleep
  };
  static base::Result<std::unique_ptr<MpiRuntime>> start(const Options& options);

  /// Ends MPI; waits for all ranks to do the same.
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// The communicator of all ranks; take it once.
  std::unique_ptr<Communicator> world();

  /// Moves messages under way between hosts. A rank that has sent and now waits for something else
  /// than a communicator calls it meanwhile, or a large message may not arrive.
  void progress();

  /// Says why on stderr and ends all ranks of the job.
  [[noreturn]] void abort(std::string_view reason);

 private:
  MpiRuntime(const Options& options, int rank, int size)
      : options_(options), rank_(rank), size_(size) {}

  Options options_;
  int rank_;
  int size_;
};

}  // namespace fourfold::comm
