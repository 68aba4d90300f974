#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "mesh/placement.h"

namespace fourfold::mesh {

/// The largest job that the rank arithmetic takes; far above any real one.
inline constexpr int kMaxDevices = 65536;

/// One choice of the four parallelisms. etp = 0 asks for the default: tp/ep where ep divides tp,
/// else 1. For a dense model ep = 1 and etp = tp.
struct ParallelConfig {
  int pp = 1;
  int dp = 1;
  int tp = 1;
  int ep = 1;
  int etp = 0;

  int devices() const { return pp * dp * tp; }
  bool operator==(const ParallelConfig&) const = default;
};

/// Scheme names: "tp4pp2", "tp2dp2ep2etp2"; a single device is "tp1". Axes of size 1 are left out,
/// etp where it is the default. parse_scheme also takes "A".."D", the named schemes for 8 devices:
/// tp8, tp4pp2, tp2pp2dp2, dp8; its axes may come in any order, and an etp left out stays 0.
std::string scheme_name(const ParallelConfig& config);
base::Result<ParallelConfig> parse_scheme(std::string_view name);

/// What of a model must be divisible. experts = 0: dense.
struct ModelDivisors {
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t intermediate_granules =
      0;  ///< granules of the MLP's width, each shard needs one; 0: experts only
  int64_t experts = 0;
  int64_t expert_granules = 0;  ///< granules of an expert's width
};

/// Who computes something: the same ranks of a stage are seen in two ways.
enum class Role { kAttention, kMlp, kExpert, kVocab };
/// Along which axis a group shares or splits the work.
enum class Axis { kTensor, kPipeline, kData, kExpert, kExpertTensor, kExpertData, kControl };
std::string_view name_of(Axis axis);

/// Where a rank stands in the attention view of its world.
struct Coordinates {
  int stage = 0;
  int replica = 0;
  int shard = 0;
  bool operator==(const Coordinates&) const = default;
};

/// Where `rank` stands in a world of config.devices() ranks.
Coordinates coordinates(const ParallelConfig& config, int rank);

/// Where it stands in the expert view of its stage: replica of the expert block, expert shard, and
/// shard inside each expert (innermost).
struct ExpertCoordinates {
  int edp = 0;
  int ep = 0;
  int etp = 0;
  bool operator==(const ExpertCoordinates&) const = default;
};
ExpertCoordinates expert_coordinates(const ParallelConfig& config, int rank);

/// The rank arithmetic of one scheme: rank = (stage * dp + replica) * tp + shard. A pure value; the
/// only place with rules about what composes.
class Mesh {
 public:
  /// Checks every rule of docs/architecture.md and, as all numerics are invariant, that tp and etp
  /// divide kReductionSlices; the error gives the numbers that clash.
  static base::Result<Mesh> create(const ParallelConfig& config, const ModelDivisors& model,
                                   const ExpertPlacement& placement = {});

  /// With etp resolved.
  const ParallelConfig& config() const { return config_; }
  int world_size() const { return config_.devices(); }
  /// Replicas that must step together because an expert block covers them; 1 for dense models.
  int lockstep() const { return lockstep_; }
  /// Ranks that must step together: pp * lockstep * tp. One executor and one MPI job each.
  int group_size() const { return config_.pp * lockstep_ * config_.tp; }
  int groups() const { return config_.dp / lockstep_; }

  Coordinates coordinates(int rank) const;
  ExpertCoordinates expert_coordinates(int rank) const;
  int rank(const Coordinates& coordinates) const;

  /// The ranks that share `rank`'s work for `role` along `axis`, in order, itself included.
  /// (attention|mlp|vocab, tensor): its TP shards. (any, pipeline): the same shard of each stage.
  /// (any, data): the same shard of each replica. (expert, expert|expert tensor|expert data): the
  /// three factors of the expert view.
  std::vector<int> group(int rank, Role role, Axis axis) const;

  bool has_experts() const { return experts_ > 0; }
  /// The ranks of `rank`'s stage that hold one copy of the experts together with it: ep * etp
  /// neighbours, itself included.
  std::vector<int> expert_block(int rank) const;
  /// Experts that shard `ep` of each block holds, rising; none of a dense model.
  std::vector<int64_t> experts_of(int ep) const;

  /// The first layer of `stage` is split[stage], the last split[stage + 1] - 1. `costs` holds one
  /// weight per layer; `first_extra` and `last_extra` what embedding and head add. Minimises the
  /// largest stage; every stage gets at least one layer.
  static std::vector<int> split_layers(const std::vector<double>& costs, double first_extra,
                                       double last_extra, int stages);

 private:
  Mesh(const ParallelConfig& config, int lockstep, int64_t experts, ExpertPlacement placement)
      : config_(config), lockstep_(lockstep), experts_(experts), placement_(std::move(placement)) {}
  ParallelConfig config_;
  int lockstep_ = 1;
  int64_t experts_ = 0;
  ExpertPlacement placement_;
};

/// Every scheme of exactly `devices` ranks, legal or not, in a stable order (tp falling, then pp
/// rising, then ep and etp rising). Expert schemes are listed only for models with experts.
/// 1 <= devices <= kMaxDevices.
std::vector<ParallelConfig> schemes(int devices, const ModelDivisors& model);

/// Up to `count` legal schemes nearest to `wanted`: same devices first, then fewer; among those of
/// as many devices the fewest changed axes first.
std::vector<ParallelConfig> nearest_legal(const ParallelConfig& wanted, const ModelDivisors& model,
                                          int count, const ExpertPlacement& placement = {});

/// Mesh::create with the nearest legal schemes added to the error.
base::Result<Mesh> create_or_suggest(const ParallelConfig& config, const ModelDivisors& model,
                                     const ExpertPlacement& placement = {});

/// Invariant numerics splits every reduction into this many slices, so tp must divide it
/// (docs/numerics.md).
inline constexpr int kReductionSlices = 8;

/// Half-open range.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// Part `index` of `parts` of `granules` granules: [floor(index*granules/parts),
/// floor((index+1)*granules/parts)). Consistent under nesting: shard s of tp holds exactly slices
/// s*8/tp .. (s+1)*8/tp - 1 of 8.
Range granule_range(int64_t granules, int parts, int index);

}  // namespace fourfold::mesh
