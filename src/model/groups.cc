#include "model/groups.h"

#include <utility>

namespace fourfold::model {
namespace {

std::unique_ptr<comm::Communicator> split(const mesh::Mesh& mesh, comm::Communicator& world,
                                          mesh::Role role, mesh::Axis axis) {
  // The smallest member names the group.
  const int color = mesh.group(world.rank(), role, axis).front();
  auto group = world.split(color, world.rank(), axis);
  group->report_to(world.progress());
  return group;
}

}  // namespace

RankGroups::RankGroups(const mesh::Mesh& mesh, std::unique_ptr<comm::Communicator> world)
    : mesh_(mesh),
      rank_(world->rank()),
      world_(std::move(world)),
      tensor_(split(mesh, *world_, mesh::Role::kAttention, mesh::Axis::kTensor)),
      pipeline_(split(mesh, *world_, mesh::Role::kAttention, mesh::Axis::kPipeline)) {
  CHECK(world_->size() == mesh.world_size(), "{} ranks for a mesh of {}", world_->size(),
        mesh.world_size());
}

comm::Communicator& RankGroups::tensor(mesh::Role role) {
  // Attention, MLP and vocabulary are cut over the same shards today.
  CHECK(role != mesh::Role::kExpert, "a dense model has no expert group");
  return *tensor_;
}

}  // namespace fourfold::model
