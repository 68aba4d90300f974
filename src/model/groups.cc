#include "model/groups.h"

#include <utility>

#include "comm/device_group.h"

namespace fourfold::model {
namespace {

/// `ranks` is the group of this rank; the smallest member names it.
std::unique_ptr<comm::Communicator> split(comm::Communicator& world, const std::vector<int>& ranks,
                                          mesh::Axis axis) {
  auto group = world.split(ranks.front(), world.rank(), axis);
  group->report_to(world.progress());
  return group;
}

}  // namespace

RankGroups::RankGroups(const mesh::Mesh& mesh, std::unique_ptr<comm::Communicator> world)
    : mesh_(mesh), rank_(world->rank()), world_(std::move(world)) {
  using mesh::Axis;
  using mesh::Role;
  CHECK(world_->size() == mesh.world_size(), "{} ranks for a mesh of {}", world_->size(),
        mesh.world_size());
  const auto group = [&](Role role, Axis axis) {
    return split(*world_, mesh_.group(rank_, role, axis), axis);
  };
  tensor_ = group(Role::kAttention, Axis::kTensor);
  pipeline_ = group(Role::kAttention, Axis::kPipeline);
  if (!mesh.has_experts()) return;
  expert_block_ = split(*world_, mesh_.expert_block(rank_), Axis::kExpert);
  expert_tensor_ = group(Role::kExpert, Axis::kExpertTensor);
}

base::Status RankGroups::connect_devices() {
  for (comm::Communicator* group : {tensor_.get(), pipeline_.get()}) {
    if (group->size() == 1) continue;
    FF_ASSIGN(std::unique_ptr<comm::DeviceGroup> devices, comm::connect_devices(*group));
    group->attach(std::move(devices));
  }
  on_devices_ = true;
  return {};
}

comm::Communicator& RankGroups::tensor(mesh::Role role) {
  if (role != mesh::Role::kExpert) return *tensor_;  // all are cut over the same shards
  CHECK(expert_tensor_ != nullptr, "a dense model has no group of an expert's shards");
  return *expert_tensor_;
}

comm::Communicator& RankGroups::expert_block() {
  CHECK(expert_block_ != nullptr, "a dense model has no expert block");
  return *expert_block_;
}

}  // namespace fourfold::model
