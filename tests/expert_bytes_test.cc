// What the exchanges of experts move while requests are served: the formulas of docs/experts.md as
// equalities, from the batches of every step and from which experts each token chose.

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "base/sizes.h"
#include "tests/support/answers.h"
#include "tests/support/serve.h"

namespace fourfold::tests {
namespace {

using model::ExchangeKind;

constexpr int64_t kRowBytes = 2 * 128;  // hidden size in bf16
constexpr int64_t kMessageBytes = kRowBytes + 4 * kTinyMoeTopK;
constexpr size_t kLayers = 3;  // with experts

std::unique_ptr<runtime::Cluster> start(const mesh::ParallelConfig& scheme, ExchangeKind exchange,
                                        const engine::SchedulerOptions& scheduler = {}) {
  runtime::ClusterConfig config = thread_config(scheme);
  config.model = "tiny-moe";
  config.expert_exchange = exchange;
  config.max_positions = 64;
  config.scheduler = scheduler;
  auto cluster = runtime::Cluster::start(config, [](const std::string&) {});
  EXPECT_TRUE(cluster.ok()) << cluster.error().message;
  return std::move(cluster).value();
}

engine::Request request_of(std::vector<engine::TokenId> prompt, int32_t new_tokens) {
  engine::Request out;
  out.prompt = std::move(prompt);
  out.max_new_tokens = new_tokens;
  out.ignore_eos = true;
  return out;
}

/// The experts that one token chose in each layer.
using Choices = std::vector<std::vector<int>>;

/// The requests, and what each of their tokens chose: found on one device, which computes one more
/// token of the sequence each time, by what its experts count.
struct Known {
  std::vector<engine::Request> requests;
  std::vector<std::vector<Choices>> choices;  ///< of each request and position
};

Known make_known() {
  Known out;
  for (int i = 0; i < 6; ++i) {
    std::vector<engine::TokenId> prompt(static_cast<size_t>(5 + 3 * i));
    std::iota(prompt.begin(), prompt.end(), 100 * i + 7);
    out.requests.push_back(request_of(std::move(prompt), 9));
  }
  engine::SchedulerOptions every_row_once;
  every_row_once.prefix_cache = false;
  every_row_once.lookahead = 0;
  const auto cluster = start({}, ExchangeKind::kAuto, every_row_once);
  const Served served = serve(*cluster, out.requests);
  const auto rows = [&] {
    std::vector<std::vector<int64_t>> of_layers;
    const std::vector<runtime::RankReport> reports = cluster->rank_reports().value();
    for (const model::LayerExpertStats& layer : reports.at(0).stats.experts.layers) {
      of_layers.push_back(layer.rows);
    }
    return of_layers;
  };
  for (size_t i = 0; i < out.requests.size(); ++i) {
    std::vector<engine::TokenId> text = out.requests[i].prompt;
    text.insert(text.end(), served.tokens[i].begin(), served.tokens[i].end());
    std::vector<std::vector<int64_t>> shorter(kLayers, std::vector<int64_t>(8, 0));
    for (size_t length = 1; length <= text.size(); ++length) {
      const auto before = rows();
      serve(*cluster,
            {request_of({text.begin(), text.begin() + static_cast<std::ptrdiff_t>(length)}, 1)});
      const auto after = rows();
      Choices token(kLayers);
      for (size_t layer = 0; layer < kLayers; ++layer) {
        for (size_t e = 0; e < 8; ++e) {
          const int64_t now = after.at(layer)[e] - before.at(layer)[e];
          if (now > shorter[layer][e]) token[layer].push_back(static_cast<int>(e));
          shorter[layer][e] = now;
        }
        EXPECT_EQ(std::ssize(token[layer]), kTinyMoeTopK);
      }
      if (length == 1) out.choices.emplace_back();
      out.choices.back().push_back(std::move(token));
    }
  }
  return out;
}

const Known& known() {
  static const Known kKnown = make_known();
  return kKnown;
}

/// What a rank gave to others.
struct Moved {
  int64_t dispatched = 0;
  int64_t combined = 0;
  auto operator<=>(const Moved&) const = default;
  Moved& operator+=(const Moved& other) {
    dispatched += other.dispatched;
    combined += other.combined;
    return *this;
  }
};

/// Of each rank of a block, in one layer's exchange. `owned`: of each the choices of the rows that
/// it owns.
std::vector<Moved> moved_by(const mesh::Mesh& mesh, const std::vector<int>& block,
                            ExchangeKind exchange,
                            const std::vector<std::vector<std::vector<int>>>& owned) {
  const mesh::ParallelConfig& config = mesh.config();
  const auto shard_of = [&](int expert) { return expert / (8 / config.ep); };
  std::vector<Moved> out(block.size());
  if (exchange == ExchangeKind::kAllToAll) {
    for (size_t owner = 0; owner < block.size(); ++owner) {
      for (const std::vector<int>& experts : owned[owner]) {
        for (size_t other = 0; other < block.size(); ++other) {
          if (other == owner) continue;
          const mesh::ExpertCoordinates at = mesh.expert_coordinates(block[other]);
          const int64_t here = std::count_if(experts.begin(), experts.end(),
                                             [&](int e) { return shard_of(e) == at.ep; });
          if (here > 0) out[owner].dispatched += kMessageBytes;
          if (at.etp == mesh.expert_coordinates(block[owner]).etp) {
            out[other].combined += here * kRowBytes;
          }
        }
      }
    }
    return out;
  }
  std::set<int> replicas;
  for (const int rank : block) replicas.insert(mesh.coordinates(rank).replica);
  int64_t most_rows = 0;
  std::vector<int64_t> results(static_cast<size_t>(config.ep), 0);
  for (const auto& rows : owned) {
    most_rows = std::max(most_rows, std::ssize(rows));
    for (const std::vector<int>& experts : rows) {
      for (const int e : experts) ++results[static_cast<size_t>(shard_of(e))];
    }
  }
  for (Moved& rank : out) {
    if (replicas.size() > 1) rank.dispatched = most_rows * kMessageBytes;
    if (config.ep > 1) {
      rank.combined = kRowBytes * base::ceil_div(*std::max_element(results.begin(), results.end()),
                                                 int64_t{config.etp});
    }
  }
  return out;
}

/// Collects which rows each replica had in each step. The engines of groups that do not step
/// together number their steps and replicas alike; each has a thread of its own.
class Batches {
 public:
  void observe(const engine::StepRecord& record) {
    const std::lock_guard lock(mutex_);
    steps_[{std::this_thread::get_id(), record.step}].push_back(record);
  }

  /// What every rank gives to others, in rising order: which group a thread drives is not known.
  /// `stage_of_layer`: of the layers with experts.
  std::vector<Moved> expected(const mesh::Mesh& mesh, ExchangeKind exchange, const Served& served,
                              const std::vector<int>& stage_of_layer) const {
    const mesh::ParallelConfig& config = mesh.config();
    std::map<std::pair<std::thread::id, int>, Moved> of_ranks;
    for (const auto& [key, records] : steps_) {
      for (size_t layer = 0; layer < kLayers; ++layer) {
        std::vector<std::vector<std::vector<int>>> rows(static_cast<size_t>(mesh.lockstep()));
        for (const engine::StepRecord& record : records) {
          for (const engine::ChunkRecord& chunk : record.chunks) {
            const auto& choices = known().choices[served.request_of.at(chunk.sequence)];
            for (int32_t i = 0; i < chunk.num_tokens; ++i) {
              rows[static_cast<size_t>(record.replica)].push_back(
                  choices.at(static_cast<size_t>(chunk.position + i))[layer]);
            }
          }
        }
        std::set<std::vector<int>> blocks;
        for (int replica = 0; replica < mesh.lockstep(); ++replica) {
          for (int shard = 0; shard < config.tp; ++shard) {
            blocks.insert(mesh.expert_block(mesh.rank({stage_of_layer[layer], replica, shard})));
          }
        }
        for (const std::vector<int>& block : blocks) {
          std::vector<std::vector<std::vector<int>>> owned;
          for (const int rank : block) {
            const mesh::Coordinates at = mesh.coordinates(rank);
            const auto& all = rows[static_cast<size_t>(at.replica)];
            const std::ptrdiff_t count = std::ssize(all);
            owned.emplace_back(all.begin() + at.shard * count / config.tp,
                               all.begin() + (at.shard + 1) * count / config.tp);
          }
          const std::vector<Moved> moved = moved_by(mesh, block, exchange, owned);
          for (size_t i = 0; i < block.size(); ++i) {
            of_ranks[{std::get<std::thread::id>(key), block[i]}] += moved[i];
          }
        }
      }
    }
    std::vector<Moved> out;
    for (const auto& [rank, moved] : of_ranks) out.push_back(moved);
    out.resize(static_cast<size_t>(mesh.world_size()));  // the others had nothing to give
    std::sort(out.begin(), out.end());
    return out;
  }

 private:
  std::mutex mutex_;
  std::map<std::tuple<std::thread::id, engine::StepId>, std::vector<engine::StepRecord>> steps_;
};

class ExpertBytes : public testing::TestWithParam<mesh::ParallelConfig> {};

TEST_P(ExpertBytes, AreThoseOfTheFormulaOverAServedRun) {
  const mesh::Mesh mesh = mesh::Mesh::create(GetParam(), kTinyMoeDivisors).value();
  for (const ExchangeKind exchange : {ExchangeKind::kGather, ExchangeKind::kAllToAll}) {
    SCOPED_TRACE(model::name_of(exchange));
    const auto cluster = start(GetParam(), exchange);
    Batches batches;
    cluster->trace([&](const engine::StepRecord& record) { batches.observe(record); });
    const Served served = serve(*cluster, known().requests);
    cluster->trace(nullptr);
    std::vector<Moved> moved;
    std::vector<int> stage_of_layer(kLayers);
    const std::vector<runtime::RankReport> reports = cluster->rank_reports().value();
    for (const runtime::RankReport& rank : reports) {
      const model::ExpertStats& stats = rank.stats.experts;
      moved.push_back({stats.dispatched_bytes, stats.combined_bytes});
      for (const model::LayerExpertStats& layer : stats.layers) {
        // The first layer of the model is dense.
        stage_of_layer.at(static_cast<size_t>(layer.layer - 1)) = rank.at.stage;
      }
    }
    std::sort(moved.begin(), moved.end());
    EXPECT_EQ(moved, batches.expected(mesh, exchange, served, stage_of_layer));
    const bool any_result_travels =
        std::any_of(moved.begin(), moved.end(), [](const Moved& m) { return m.combined > 0; });
    EXPECT_EQ(any_result_travels, mesh.config().ep > 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Moe, ExpertBytes, testing::ValuesIn(legal_schemes(8, kTinyMoeDivisors)),
                         [](const auto& test) { return mesh::scheme_name(test.param); });

}  // namespace
}  // namespace fourfold::tests
