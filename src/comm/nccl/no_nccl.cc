// Stands in where fourfold is built without CUDA or without NCCL's header.

#include "comm/device_group.h"

namespace fourfold::comm {

base::Result<std::unique_ptr<DeviceGroup>> connect_devices(Communicator& /*group*/,
                                                           DevicePaths /*paths*/) {
  return base::fail(
      "this fourfold was built without NCCL, over which ranks with a GPU each talk; install CUDA "
      "and nccl.h (package libnccl-dev) and build again");
}

}  // namespace fourfold::comm
