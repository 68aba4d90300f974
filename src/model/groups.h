#pragma once

#include <memory>
#include <span>

#include "base/result.h"
#include "comm/communicator.h"
#include "mesh/mesh.h"

namespace fourfold::model {

/// The communicators of one rank, made from the mesh: layers ask for a group by role and axis and
/// never see rank numbers.
class RankGroups {
 public:
  /// Collective over `world`, which holds all ranks of one group in mesh order. All groups report
  /// to the world's progress.
  RankGroups(const mesh::Mesh& mesh, std::unique_ptr<comm::Communicator> world);

  /// Joins the GPUs of the ranks, each of which has one of its own. Collective. Experts are
  /// exchanged through the host as before. Errors: those of comm::connect_devices.
  base::Status connect_devices();
  /// Whether that was done.
  bool on_devices() const { return on_devices_; }

  /// The shards that split `role`'s matrices with this rank: of experts the etp shards, of all else
  /// the tp shards.
  comm::Communicator& tensor(mesh::Role role);
  /// The ranks that hold one copy of the experts together, by expert shard, then by shard of the
  /// expert (mesh::Mesh::expert_block).
  comm::Communicator& expert_block();
  /// The same shard of every stage, in stage order.
  comm::Communicator& pipeline() { return *pipeline_; }

  /// Marks that this rank begins with `operation` (comm::Progress).
  void enter(comm::Operation operation, int32_t layer = -1, std::span<float> residual = {}) {
    if (comm::Progress* progress = world_->progress()) progress->enter(operation, layer, residual);
  }
  comm::Progress* progress() const { return world_->progress(); }

  const mesh::Mesh& mesh() const { return mesh_; }
  int rank() const { return rank_; }
  mesh::Coordinates coordinates() const { return mesh_.coordinates(rank_); }
  bool first_stage() const { return coordinates().stage == 0; }
  bool last_stage() const { return coordinates().stage == mesh_.config().pp - 1; }

 private:
  mesh::Mesh mesh_;
  int rank_;
  bool on_devices_ = false;
  std::unique_ptr<comm::Communicator> world_;
  std::unique_ptr<comm::Communicator> tensor_;
  std::unique_ptr<comm::Communicator> pipeline_;
  std::unique_ptr<comm::Communicator> expert_block_;  ///< null in a dense model, as is the next
  std::unique_ptr<comm::Communicator> expert_tensor_;
};

}  // namespace fourfold::model
