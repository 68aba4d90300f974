#include "runtime/control/rank_config_json.h"

#include <bit>
#include <limits>
#include <nlohmann/json.hpp>

#include "files/json.h"
#include "runtime/expert_placement.h"

namespace fourfold::runtime {
namespace {

using base::fail;
using nlohmann::json;

constexpr std::string_view kWhat = "the rank configuration";
constexpr size_t kMaxCpus = 65536;

/// Reads integers out of one JSON object; the first error stays.
class IntReader {
 public:
  explicit IntReader(const json& object) : object_(object) {}

  template <typename Int>
  void read(std::string_view key, int64_t smallest, Int& out) {
    if (!status_.ok()) return;
    base::Result<int64_t> value = files::json_get<int64_t>(object_, key, kWhat);
    if (!value.ok()) {
      status_ = value.error();
    } else if (*value < smallest || *value > std::numeric_limits<Int>::max()) {
      status_ = fail("\"{}\" in {} is {}, expected {} to {}", key, kWhat, *value, smallest,
                     std::numeric_limits<Int>::max());
    } else {
      out = static_cast<Int>(*value);
    }
  }

  const base::Status& status() const { return status_; }

 private:
  const json& object_;
  base::Status status_;
};

base::Result<std::vector<int>> read_cpus(const json& root) {
  const auto found = root.find("cpus");
  if (found == root.end() || !found->is_array() || found->size() > kMaxCpus) {
    return fail("expected a list of at most {} processors for \"cpus\" in {}", kMaxCpus, kWhat);
  }
  std::vector<int> cpus;
  for (const json& value : *found) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMaxCpus) {
      return fail("\"cpus\" in {} holds {}, expected processor numbers", kWhat, value.dump());
    }
    cpus.push_back(value.get<int>());
  }
  return cpus;
}

base::Status read_experts(const json& root, RankConfig& c) {
  FF_ASSIGN(const auto routing, files::json_get<std::string>(root, "dummy_routing", kWhat));
  FF_ASSIGN(c.dummy_routing, model::parse_dummy_routing(routing));
  FF_ASSIGN(const auto exchange, files::json_get<std::string>(root, "expert_exchange", kWhat));
  FF_ASSIGN(c.expert_exchange, model::parse_exchange(exchange));
  const auto placement = root.find("expert_placement");
  if (placement == root.end()) return fail("there is no \"expert_placement\" in {}", kWhat);
  FF_ASSIGN(c.expert_placement, placement_from_json(*placement, kWhat));
  return {};
}

}  // namespace

std::string to_json(const RankConfig& c) {
  const json root = {
      {"model", c.model},
      {"dummy_weights", c.dummy_weights},
      {"dummy_seed", std::bit_cast<int64_t>(c.dummy_seed)},  // JSON integers are signed here
      {"pp", c.group.pp},
      {"dp", c.group.dp},
      {"tp", c.group.tp},
      {"ep", c.group.ep},
      {"etp", c.group.etp},
      {"backend", c.backend},
      {"isa", c.isa},
      {"threads", c.threads},
      {"gpus", c.gpus},
      {"cpus", c.cpus},
      {"replicas", c.limits.replicas},
      {"stages", c.limits.stages},
      {"depth", c.limits.depth},
      {"slots", c.limits.slots},
      {"max_step_tokens", c.limits.max_step_tokens},
      {"block_size", c.limits.block_size},
      {"blocks", c.limits.blocks},
      {"max_positions", c.limits.max_positions},
      {"groups", c.groups},
      {"group_index", c.group_index},
      {"restarts", c.restarts},
      {"dummy_routing", model::to_string(c.dummy_routing)},
      {"expert_placement", placement_to_json(c.expert_placement)},
      {"expert_exchange", model::name_of(c.expert_exchange)},
  };
  return root.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

base::Result<RankConfig> rank_config_from_json(std::string_view text) {
  FF_ASSIGN(const json root, files::parse_json(text, kWhat));
  RankConfig c;
  FF_ASSIGN(c.model, files::json_get<std::string>(root, "model", kWhat));
  FF_ASSIGN(c.dummy_weights, files::json_get<bool>(root, "dummy_weights", kWhat));
  FF_ASSIGN(c.backend, files::json_get<std::string>(root, "backend", kWhat));
  FF_ASSIGN(c.isa, files::json_get<std::string>(root, "isa", kWhat));
  FF_ASSIGN(c.cpus, read_cpus(root));
  int64_t seed = 0;
  IntReader ints(root);
  ints.read("dummy_seed", std::numeric_limits<int64_t>::min(), seed);
  c.dummy_seed = std::bit_cast<uint64_t>(seed);
  ints.read("pp", 1, c.group.pp);
  ints.read("dp", 1, c.group.dp);
  ints.read("tp", 1, c.group.tp);
  ints.read("ep", 1, c.group.ep);
  ints.read("etp", 0, c.group.etp);
  ints.read("threads", 1, c.threads);
  ints.read("gpus", 0, c.gpus);
  ints.read("replicas", 1, c.limits.replicas);
  ints.read("stages", 1, c.limits.stages);
  ints.read("depth", 1, c.limits.depth);
  ints.read("slots", 0, c.limits.slots);
  ints.read("max_step_tokens", 0, c.limits.max_step_tokens);
  ints.read("block_size", 0, c.limits.block_size);
  ints.read("blocks", 0, c.limits.blocks);
  ints.read("max_positions", 0, c.limits.max_positions);
  ints.read("groups", 1, c.groups);
  ints.read("group_index", 0, c.group_index);
  ints.read("restarts", 0, c.restarts);
  FF_TRY(ints.status());
  FF_TRY(read_experts(root, c));
  return c;
}

}  // namespace fourfold::runtime
