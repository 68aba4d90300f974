#include "comm/mpi/mpi_group.h"

#include <array>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/shared/shared_communicator.h"

namespace fourfold::comm {
namespace {

/// Processes of one host; MPI serves only to split the group.
class NodeCommunicator final : public SharedCommunicator {
 public:
  NodeCommunicator(MpiGroup group, std::shared_ptr<GroupMemory> memory, mesh::Axis axis,
                   Waiting waiting)
      : SharedCommunicator(std::move(memory), group.rank(), axis, waiting),
        group_(std::move(group)) {}

  std::unique_ptr<Communicator> split(int color, int key, mesh::Axis axis) override {
    return group_.split(color, key, axis);
  }

 private:
  MpiGroup group_;
};

bool all_agree(MPI_Comm comm, bool mine) {
  int agreed = mine ? 1 : 0;
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, &agreed, 1, MPI_INT, MPI_MIN, comm), "MPI_Allreduce");
  return agreed == 1;
}

/// Rank 0 creates the memory, the others open it; the same outcome on all ranks.
base::Result<std::shared_ptr<GroupMemory>> share_memory(const MpiGroup& group) {
  base::Result<std::shared_ptr<GroupMemory>> memory = base::fail("not opened");
  GroupMemory::Address address;
  if (group.rank() == 0) {
    memory = GroupMemory::create(group.size());
    if (memory.ok()) address = (*memory)->address();
  }
  check_mpi(MPI_Bcast(&address, sizeof(address), MPI_BYTE, 0, group.comm()), "MPI_Bcast");
  if (group.rank() != 0) {
    memory = address.fd < 0 ? base::fail("rank 0 could not create the group's memory")
                            : GroupMemory::open(address, group.size());
  }
  const bool mine = memory.ok();
  if (all_agree(group.comm(), mine) || !mine) return memory;
  return base::fail("another rank could not open the group's memory");
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw CommAborted{fmt::format("{}: {}", call, text.data())};
}

MpiGroup::~MpiGroup() {
  if (comm_ != MPI_COMM_NULL) MPI_Comm_free(&comm_);
}

MpiGroup::MpiGroup(MpiGroup&& other) noexcept
    : comm_(std::exchange(other.comm_, MPI_COMM_NULL)), options_(other.options_) {}

int MpiGroup::rank() const {
  int rank = 0;
  check_mpi(MPI_Comm_rank(comm_, &rank), "MPI_Comm_rank");
  return rank;
}

int MpiGroup::size() const {
  int size = 0;
  check_mpi(MPI_Comm_size(comm_, &size), "MPI_Comm_size");
  return size;
}

std::unique_ptr<Communicator> MpiGroup::split(int color, int key, mesh::Axis axis) const {
  CHECK(color >= 0, "split with color {}", color);
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(comm_, color, key, &part), "MPI_Comm_split");
  check_mpi(MPI_Comm_set_errhandler(part, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  return make_communicator(MpiGroup(part, options_), axis);
}

bool MpiGroup::on_one_host() const {
  MPI_Comm host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
            "MPI_Comm_split_type");
  return MpiGroup(host, options_).size() == size();
}

std::unique_ptr<Communicator> MpiGroup::make_communicator(MpiGroup group, mesh::Axis axis) {
  if (group.options_.shared_memory && group.on_one_host()) {
    auto memory = share_memory(group);
    if (memory.ok()) {
      const Waiting waiting = group.options_.waiting;
      return std::make_unique<NodeCommunicator>(std::move(group), std::move(*memory), axis,
                                                waiting);
    }
    spdlog::warn("{} ranks of one host share no memory and use MPI, which is slower: {}",
                 group.size(), memory.error().message);
  }
  return std::make_unique<MpiCommunicator>(std::move(group), axis);
}

}  // namespace fourfold::comm
