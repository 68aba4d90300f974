#pragma once

#include <memory>

#include "comm/communicator.h"
#include "mesh/mesh.h"

namespace fourfold::model {

/// The communicators of one rank, made from the mesh: layers ask for a group by role and axis and
/// never see rank numbers.
class RankGroups {
 public:
  /// Collective over `world`, which holds all ranks of one group in mesh order.
  RankGroups(const mesh::Mesh& mesh, std::unique_ptr<comm::Communicator> world);

  /// The shards that split `role`'s matrices with this rank.
  comm::Communicator& tensor(mesh::Role role);
  /// The same shard of every stage, in stage order.
  comm::Communicator& pipeline() { return *pipeline_; }

  const mesh::Mesh& mesh() const { return mesh_; }
  int rank() const { return rank_; }
  mesh::Coordinates coordinates() const { return mesh_.coordinates(rank_); }
  bool first_stage() const { return coordinates().stage == 0; }
  bool last_stage() const { return coordinates().stage == mesh_.config().pp - 1; }

 private:
  mesh::Mesh mesh_;
  int rank_;
  std::unique_ptr<comm::Communicator> world_;
  std::unique_ptr<comm::Communicator> tensor_;
  std::unique_ptr<comm::Communicator> pipeline_;
};

}  // namespace fourfold::model
