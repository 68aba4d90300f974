#include "mesh/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>

namespace fourfold::mesh {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Nothing but the rules about ranks and slices forbids a scheme of up to 64 ranks of these two
/// (the experts are divisible by most ep).
constexpr ModelDivisors kPermissiveDense{
    .layers = 64, .heads = 840, .kv_heads = 840, .intermediate_granules = 64};
constexpr ModelDivisors kPermissiveExperts{.layers = 64,
                                           .heads = 840,
                                           .kv_heads = 840,
                                           .intermediate_granules = 64,
                                           .experts = 64 * 63 * 55 * 13 * 17 * 19,
                                           .expert_granules = 64};
constexpr ModelDivisors kTwelveHeads{
    .layers = 16, .heads = 12, .kv_heads = 4, .intermediate_granules = 32};

std::string error_of(const ParallelConfig& config, const ModelDivisors& model) {
  const auto mesh = Mesh::create(config, model);
  return mesh.ok() ? "legal" : mesh.error().message;
}

/// The groups that `role` and `axis` make of all ranks must cut the world into parts of `size`.
void expect_partition(const Mesh& mesh, Role role, Axis axis, int size) {
  std::vector<int> owners(static_cast<size_t>(mesh.world_size()), 0);
  for (int rank = 0; rank < mesh.world_size(); ++rank) {
    const std::vector<int> group = mesh.group(rank, role, axis);
    ASSERT_EQ(group.size(), static_cast<size_t>(size));
    ASSERT_EQ(std::count(group.begin(), group.end(), rank), 1);
    ASSERT_TRUE(std::is_sorted(group.begin(), group.end()));
    for (const int member : group) {
      ASSERT_GE(member, 0);
      ASSERT_LT(member, mesh.world_size());
      ASSERT_EQ(mesh.group(member, role, axis), group);
    }
    if (group.front() == rank) {
      for (const int member : group) ++owners[static_cast<size_t>(member)];
    }
  }
  ASSERT_EQ(std::count(owners.begin(), owners.end(), 1), mesh.world_size());
}

void expect_coordinates_name_every_rank_once(const Mesh& mesh) {
  std::set<std::tuple<int, int, int, int>> expert_places;
  for (int rank = 0; rank < mesh.world_size(); ++rank) {
    const Coordinates at = mesh.coordinates(rank);
    const ExpertCoordinates expert = mesh.expert_coordinates(rank);
    ASSERT_EQ(mesh.rank(at), rank);
    expert_places.emplace(at.stage, expert.edp, expert.ep, expert.etp);
  }
  ASSERT_EQ(expert_places.size(), static_cast<size_t>(mesh.world_size()));
}

/// The ranks of a stage that share one copy of the experts: either inside one replica, or exactly
/// the ranks of `lockstep` whole replicas.
void expect_expert_blocks_cover_whole_replicas(const Mesh& mesh) {
  const ParallelConfig& c = mesh.config();
  ASSERT_EQ(mesh.groups() * mesh.group_size(), mesh.world_size());
  for (int rank = 0; rank < mesh.world_size(); ++rank) {
    std::set<int> replicas;
    int64_t ranks = 0;
    for (const int expert_rank : mesh.group(rank, Role::kExpert, Axis::kExpert)) {
      for (const int r : mesh.group(expert_rank, Role::kExpert, Axis::kExpertTensor)) {
        ASSERT_EQ(mesh.coordinates(r).stage, mesh.coordinates(rank).stage);
        replicas.insert(mesh.coordinates(r).replica);
        ++ranks;
      }
    }
    ASSERT_EQ(replicas.size(), static_cast<size_t>(mesh.lockstep()));
    ASSERT_EQ(*replicas.begin() % mesh.lockstep(), 0);
    ASSERT_EQ(*replicas.rbegin() - *replicas.begin(), mesh.lockstep() - 1);
    if (mesh.lockstep() > 1) {
      ASSERT_EQ(ranks, int64_t{c.tp} * mesh.lockstep());
    }
  }
}

void expect_sound(const Mesh& mesh) {
  const ParallelConfig& c = mesh.config();
  for (const Role role : {Role::kAttention, Role::kMlp, Role::kVocab}) {
    expect_partition(mesh, role, Axis::kTensor, c.tp);
  }
  for (const Role role : {Role::kAttention, Role::kExpert}) {
    expect_partition(mesh, role, Axis::kPipeline, c.pp);
    expect_partition(mesh, role, Axis::kData, c.dp);
  }
  expect_partition(mesh, Role::kExpert, Axis::kExpert, c.ep);
  expect_partition(mesh, Role::kExpert, Axis::kExpertTensor, c.etp);
  expect_partition(mesh, Role::kExpert, Axis::kExpertData, c.dp * c.tp / (c.ep * c.etp));
  expect_coordinates_name_every_rank_once(mesh);
  expect_expert_blocks_cover_whole_replicas(mesh);
}

/// The rule of the architecture, written down a second time.
bool legal_by_rule(const ParallelConfig& c, const ModelDivisors& m) {
  const int etp = c.etp != 0 ? c.etp : (c.tp % c.ep == 0 ? c.tp / c.ep : 1);
  const auto divides_slices = [](int n) { return n == 1 || n == 2 || n == 4 || n == 8; };
  if (!divides_slices(c.tp) || c.pp > m.layers) return false;
  if (m.experts == 0) return c.ep == 1 && etp == c.tp;
  if (m.experts % c.ep != 0 || !divides_slices(etp)) return false;
  if (c.tp % (c.ep * etp) == 0) return true;
  for (int k = 1; k <= c.dp; ++k) {
    if (c.dp % k == 0 && c.ep * etp == k * c.tp) return true;
  }
  return false;
}

TEST(Mesh, EveryLegalSchemeUpTo64RanksPartitionsTheWorld) {
  int legal = 0;
  for (const ModelDivisors& model : {kPermissiveDense, kPermissiveExperts}) {
    for (int devices = 1; devices <= 64; ++devices) {
      for (const ParallelConfig& config : schemes(devices, model)) {
        const auto mesh = Mesh::create(config, model);
        ASSERT_EQ(mesh.ok(), legal_by_rule(config, model)) << scheme_name(config);
        if (!mesh.ok()) continue;
        ASSERT_EQ(mesh->world_size(), devices);
        expect_sound(*mesh);
        if (::testing::Test::HasFatalFailure()) FAIL() << "in " << scheme_name(config);
        ++legal;
      }
    }
  }
  EXPECT_GT(legal, 1500);
}

TEST(Mesh, SchemesListsEachCandidateOnceWithTpFalling) {
  const std::vector<ParallelConfig> dense = schemes(8, kPermissiveDense);
  std::vector<std::string> names;
  for (const ParallelConfig& c : dense) names.push_back(scheme_name(c));
  EXPECT_THAT(names, ElementsAre("tp8", "tp4dp2", "tp4pp2", "tp2dp4", "tp2pp2dp2", "tp2pp4", "dp8",
                                 "pp2dp4", "pp4dp2", "pp8"));
  std::set<std::string> expert_names;
  const std::vector<ParallelConfig> experts = schemes(8, kPermissiveExperts);
  for (const ParallelConfig& c : experts) expert_names.insert(scheme_name(c));
  EXPECT_EQ(expert_names.size(), experts.size());
  EXPECT_TRUE(expert_names.contains("tp2dp4ep8"));
  EXPECT_TRUE(expert_names.contains("tp2dp4ep2etp4"));
}

TEST(Mesh, ResolvesTheDefaultEtp) {
  const auto etp = [](const ParallelConfig& c, const ModelDivisors& m) {
    return Mesh::create(c, m)->config().etp;
  };
  EXPECT_EQ(etp({.tp = 4}, kPermissiveDense), 4);
  EXPECT_EQ(etp({.tp = 4, .ep = 2}, kPermissiveExperts), 2);
  EXPECT_EQ(etp({.dp = 4, .tp = 2, .ep = 8}, kPermissiveExperts), 1);
}

TEST(Mesh, ReplicasThatShareExpertsStepTogether) {
  const Mesh apart = Mesh::create({.dp = 4, .tp = 2, .ep = 2}, kPermissiveExperts).value();
  EXPECT_EQ(apart.lockstep(), 1);
  EXPECT_EQ(apart.groups(), 4);
  const Mesh pairs =
      Mesh::create({.pp = 2, .dp = 4, .tp = 2, .ep = 4, .etp = 1}, kPermissiveExperts).value();
  EXPECT_EQ(pairs.lockstep(), 2);
  EXPECT_EQ(pairs.groups(), 2);
  EXPECT_EQ(pairs.group_size(), 8);
  EXPECT_THAT(pairs.group(5, Role::kExpert, Axis::kExpert), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(pairs.group(5, Role::kExpert, Axis::kExpertData), ElementsAre(1, 5));
}

TEST(Mesh, RanksRunThroughShardsThenReplicasThenStages) {
  const Mesh mesh = Mesh::create({.pp = 2, .dp = 2, .tp = 2}, kPermissiveDense).value();
  EXPECT_EQ(mesh.coordinates(6), (Coordinates{.stage = 1, .replica = 1, .shard = 0}));
  EXPECT_THAT(mesh.group(6, Role::kAttention, Axis::kTensor), ElementsAre(6, 7));
  EXPECT_THAT(mesh.group(6, Role::kAttention, Axis::kPipeline), ElementsAre(2, 6));
  EXPECT_THAT(mesh.group(6, Role::kAttention, Axis::kData), ElementsAre(4, 6));
}

TEST(MeshErrors, GiveTheNumbersThatClash) {
  EXPECT_EQ(error_of({.tp = 8}, kTwelveHeads),
            "tp8 cannot split 12 heads: 12 is not divisible by 8");
  EXPECT_EQ(error_of({.pp = 17}, kTwelveHeads),
            "pp17 cannot split 16 layers: each stage needs at least one");
  EXPECT_THAT(error_of({.tp = 3}, kTwelveHeads), HasSubstr("tp must be 1, 2, 4 or 8"));
  EXPECT_THAT(
      error_of({.tp = 4}, {.layers = 1, .heads = 12, .kv_heads = 6, .intermediate_granules = 8}),
      HasSubstr("neither of 6 and 4 divides the other"));
  EXPECT_THAT(
      error_of({.tp = 4}, {.layers = 1, .heads = 12, .kv_heads = 4, .intermediate_granules = 3}),
      HasSubstr("tp4 cannot split an MLP of 3 granules"));
  EXPECT_THAT(error_of({.dp = 2, .ep = 2}, kTwelveHeads), HasSubstr("ep2 needs a model with exp"));
  EXPECT_THAT(error_of({.tp = 4, .etp = 2}, kTwelveHeads), HasSubstr("etp2 needs a model with"));
  ModelDivisors experts = kPermissiveExperts;
  experts.experts = 6;
  EXPECT_EQ(error_of({.tp = 4, .ep = 4}, experts),
            "ep4 cannot split 6 experts: 6 is not divisible by 4; a placement file may give shards "
            "different numbers of experts");
  experts.expert_granules = 1;
  EXPECT_THAT(error_of({.tp = 2}, experts), HasSubstr("etp2 cannot split an expert of 1 granules"));
  EXPECT_THAT(error_of({.dp = 3, .etp = 3}, kPermissiveExperts), HasSubstr("etp must be 1, 2"));
  EXPECT_EQ(error_of({.dp = 2, .tp = 2, .ep = 8}, kPermissiveExperts),
            "ep8 x etp1 = 8 ranks neither divide tp2 nor cover whole replicas (tp2 times a divisor "
            "of dp2)");
}

TEST(MeshErrors, RefuseImpossibleSizes) {
  EXPECT_EQ(error_of({.pp = 0}, kTwelveHeads), "pp = 0 is not possible: expected 1 to 65536");
  EXPECT_THAT(error_of({.etp = -1}, kTwelveHeads), HasSubstr("etp = -1"));
  EXPECT_THAT(error_of({.pp = 65536, .dp = 65536, .tp = 8}, kTwelveHeads),
              HasSubstr("more than 65536 devices"));
  EXPECT_THAT(error_of({}, {.layers = 1, .heads = 1, .kv_heads = 0, .intermediate_granules = 1}),
              HasSubstr("0 KV heads"));
  EXPECT_EQ(error_of({.pp = 0}, kTwelveHeads),
            create_or_suggest({.pp = 0}, kTwelveHeads).error().message);
}

TEST(MeshErrors, KeyValueHeadsMayBeReplicated) {
  const ModelDivisors one_kv_head{
      .layers = 1, .heads = 8, .kv_heads = 1, .intermediate_granules = 8};
  EXPECT_TRUE(Mesh::create({.tp = 8}, one_kv_head).ok());
}

TEST(MeshErrors, SuggestTheNearestLegalSchemes) {
  const auto mesh = create_or_suggest({.tp = 8}, kTwelveHeads);
  ASSERT_FALSE(mesh.ok());
  EXPECT_EQ(mesh.error().message,
            "tp8 cannot split 12 heads: 12 is not divisible by 8; nearest legal schemes for 8 "
            "devices: tp4dp2, tp4pp2, tp2dp4");
  EXPECT_TRUE(create_or_suggest({.tp = 4}, kTwelveHeads).ok());
}

TEST(MeshErrors, NearestSchemesChangeFewAxesAndNeverNeedMoreDevices) {
  const ParallelConfig wanted{.pp = 3, .tp = 3};
  const std::vector<ParallelConfig> near = nearest_legal(wanted, kTwelveHeads, 8);
  ASSERT_EQ(near.size(), 8U);
  EXPECT_EQ(scheme_name(near[0]), "pp3dp3");
  for (size_t i = 0; i < near.size(); ++i) {
    EXPECT_TRUE(Mesh::create(near[i], kTwelveHeads).ok());
    EXPECT_LE(near[i].devices(), i == 0 ? 9 : near[i - 1].devices());
  }
  EXPECT_TRUE(nearest_legal({.dp = 65536}, {}, 3).empty());
}

TEST(SchemeName, IsUndoneByParse) {
  for (const char* name :
       {"tp1", "tp8", "tp4pp2", "pp3dp5", "tp2dp4ep8", "tp2dp2ep2etp2", "tp4etp1"}) {
    const auto config = parse_scheme(name);
    ASSERT_TRUE(config.ok()) << config.error().message;
    EXPECT_EQ(scheme_name(*config), name);
  }
  for (int devices = 1; devices <= 16; ++devices) {
    for (const ParallelConfig& config : schemes(devices, kPermissiveExperts)) {
      ASSERT_EQ(parse_scheme(scheme_name(config)).value(), config);
    }
  }
}

TEST(SchemeName, LeavesOutTheDefaultEtpAlsoWhenItIsWrittenDown) {
  EXPECT_EQ(scheme_name({.tp = 4, .etp = 4}), "tp4");
  EXPECT_EQ(scheme_name({.dp = 4, .tp = 2, .ep = 8, .etp = 1}), "tp2dp4ep8");
}

TEST(SchemeName, NamesTheFourSchemesOfEightDevices) {
  EXPECT_EQ(scheme_name(*parse_scheme("A")), "tp8");
  EXPECT_EQ(scheme_name(*parse_scheme("B")), "tp4pp2");
  EXPECT_EQ(scheme_name(*parse_scheme("C")), "tp2pp2dp2");
  EXPECT_EQ(scheme_name(*parse_scheme("D")), "dp8");
}

TEST(SchemeName, AnEtpThatIsTheDefaultChangesNothing) {
  EXPECT_EQ(*parse_scheme("tp2ep2etp1"), *parse_scheme("tp2ep2"));
  EXPECT_EQ(*parse_scheme("tp4etp4"), *parse_scheme("tp4"));
  EXPECT_NE(*parse_scheme("tp4ep2etp1"), *parse_scheme("tp4ep2"));
}

TEST(SchemeName, ParseRefusesWhatIsNotAScheme) {
  for (const char* name : {"", "E", "tp", "tp0", "tp-1", "tp2tp4", "tp2x", "2tp", "tp2 pp2", "TP2",
                           "tp65537", "tp99999999999999999999", "pp2dp2pp2", "tp+2", "tp2,pp2"}) {
    const auto config = parse_scheme(name);
    ASSERT_FALSE(config.ok()) << name;
    EXPECT_THAT(config.error().message, HasSubstr("a scheme looks like tp4pp2"));
  }
}

/// The largest stage of a split.
double largest_stage(const std::vector<double>& costs, double first_extra, double last_extra,
                     const std::vector<int>& split) {
  double largest = 0;
  for (size_t s = 0; s + 1 < split.size(); ++s) {
    double cost = std::accumulate(costs.begin() + split[s], costs.begin() + split[s + 1], 0.0);
    if (s == 0) cost += first_extra;
    if (s + 2 == split.size()) cost += last_extra;
    largest = std::max(largest, cost);
  }
  return largest;
}

/// The smallest largest stage over all splits, by trying each.
double best_by_trying(const std::vector<double>& costs, double first_extra, double last_extra,
                      std::vector<int> split, int stages) {
  const int layers = static_cast<int>(costs.size());
  if (static_cast<int>(split.size()) == stages) {
    split.push_back(layers);
    return largest_stage(costs, first_extra, last_extra, split);
  }
  double best = 1e300;
  for (int next = split.back() + 1; next < layers; ++next) {
    std::vector<int> longer = split;
    longer.push_back(next);
    best = std::min(best, best_by_trying(costs, first_extra, last_extra, longer, stages));
  }
  return best;
}

TEST(SplitLayers, MinimisesTheLargestStage) {
  // Multiples of 1/4, so that sums are exact in any order.
  std::vector<double> costs;
  for (int i = 0; i < 10; ++i) costs.push_back(1.0 + 0.25 * ((i * 7 + 3) % 11));
  for (const int stages : {1, 2, 3, 4, 5, 7, 10}) {
    for (const double first : {0.0, 2.5}) {
      for (const double last : {0.0, 4.75}) {
        const std::vector<int> split = Mesh::split_layers(costs, first, last, stages);
        ASSERT_EQ(split.size(), static_cast<size_t>(stages) + 1);
        EXPECT_EQ(split.front(), 0);
        EXPECT_EQ(split.back(), 10);
        EXPECT_TRUE(std::adjacent_find(split.begin(), split.end(), std::greater_equal<>()) ==
                    split.end());
        EXPECT_EQ(largest_stage(costs, first, last, split),
                  best_by_trying(costs, first, last, {0}, stages));
      }
    }
  }
}

TEST(SplitLayers, SpreadsEqualLayersUnevenlyWhereStagesDoNotDivideThem) {
  const std::vector<double> eight(8, 1.0);
  EXPECT_THAT(Mesh::split_layers(eight, 0, 0, 3), ElementsAre(0, 2, 5, 8));
  EXPECT_THAT(Mesh::split_layers(eight, 0, 0, 5), ElementsAre(0, 1, 2, 4, 6, 8));
  EXPECT_THAT(Mesh::split_layers(eight, 0, 0, 7), ElementsAre(0, 1, 2, 3, 4, 5, 6, 8));
}

TEST(SplitLayers, CountsEmbeddingAndHead) {
  const std::vector<double> eight(8, 1.0);
  EXPECT_THAT(Mesh::split_layers(eight, 0, 2, 2), ElementsAre(0, 5, 8));
  EXPECT_THAT(Mesh::split_layers(eight, 4, 0, 2), ElementsAre(0, 2, 8));
}

TEST(GranuleRange, CutsEveryGranuleOnceAndShardsAreUnionsOfSlices) {
  for (int64_t granules = 0; granules <= 200; ++granules) {
    for (const int tp : {1, 2, 4, 8}) {
      int64_t covered = 0;
      for (int shard = 0; shard < tp; ++shard) {
        const Range whole = granule_range(granules, tp, shard);
        EXPECT_EQ(whole.begin, covered);
        covered = whole.end;
        const int slices = kReductionSlices / tp;
        EXPECT_EQ(whole.begin, granule_range(granules, kReductionSlices, shard * slices).begin);
        EXPECT_EQ(whole.end,
                  granule_range(granules, kReductionSlices, (shard + 1) * slices - 1).end);
        if (granules >= tp) {
          EXPECT_GE(whole.size(), 1);
        }
      }
      EXPECT_EQ(covered, granules);
    }
  }
}

}  // namespace
}  // namespace fourfold::mesh
