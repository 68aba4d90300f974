#include "runtime/expert_placement.h"

#include <optional>
#include <utility>
#include <vector>

#include "files/json.h"

namespace fourfold::runtime {
namespace {

using mesh::ExpertPlacement;
using nlohmann::json;

constexpr std::string_view kLinear = "linear";
constexpr std::string_view kRoundRobin = "round_robin";
constexpr int64_t kMaxExperts = 65536;

std::optional<ExpertPlacement> rule_named(std::string_view name) {
  if (name == kLinear) return ExpertPlacement::linear();
  if (name == kRoundRobin) return ExpertPlacement::round_robin();
  return std::nullopt;
}

base::Result<ExpertPlacement> lists_from_json(const json& lists, std::string_view what) {
  if (!lists.is_array()) {
    return base::fail("expected a list of lists of expert numbers in {}, found {}", what,
                      lists.type_name());
  }
  std::vector<std::vector<int64_t>> shards;
  int64_t experts = 0;
  for (const json& list : lists) {
    if (!list.is_array()) {
      return base::fail("expected a list of expert numbers for shard {} in {}, found {}",
                        shards.size(), what, list.type_name());
    }
    std::vector<int64_t>& shard = shards.emplace_back();
    for (const json& expert : list) {
      const int64_t number = expert.is_number_integer() ? expert.get<int64_t>() : -1;
      if (number < 0 || number >= kMaxExperts) {
        return base::fail("expected an expert number below {} for shard {} in {}, found {}",
                          kMaxExperts, shards.size() - 1, what, expert.dump());
      }
      shard.push_back(number);
    }
    experts += std::ssize(shard);
  }
  if (experts > kMaxExperts) {
    return base::fail("{} lists {} experts, expected at most {}", what, experts, kMaxExperts);
  }
  return ExpertPlacement::listed(std::move(shards));
}

}  // namespace

base::Result<ExpertPlacement> read_expert_placement(const std::string& value) {
  if (std::optional<ExpertPlacement> rule = rule_named(value)) return *std::move(rule);
  FF_ASSIGN(const json root, files::parse_json_file(value));
  if (!root.is_object() || !root.contains("experts")) {
    return base::fail(
        "expected {{\"experts\": [[experts of shard 0], [experts of shard 1], ...]}} in {}", value);
  }
  return lists_from_json(root["experts"], value);
}

json placement_to_json(const ExpertPlacement& placement) {
  switch (placement.kind()) {
    case ExpertPlacement::Kind::kLinear:
      return kLinear;
    case ExpertPlacement::Kind::kRoundRobin:
      return kRoundRobin;
    case ExpertPlacement::Kind::kListed:
      break;
  }
  return placement.shards();
}

base::Result<ExpertPlacement> placement_from_json(const json& value, std::string_view what) {
  if (!value.is_string()) return lists_from_json(value, what);
  const auto& name = value.get_ref<const std::string&>();
  if (std::optional<ExpertPlacement> rule = rule_named(name)) return *std::move(rule);
  return base::fail("there is no expert placement \"{}\" in {}; expected {} or {}", name, what,
                    kLinear, kRoundRobin);
}

}  // namespace fourfold::runtime
