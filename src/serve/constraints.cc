#include "serve/constraints.h"

#include <algorithm>
#include <utility>

#include "grammar/constraint.h"
#include "grammar/json_schema.h"
#include "runtime/request_fault.h"

namespace fourfold::serve {
namespace {

constexpr size_t kRemembered = 16;
/// Longer ones are not remembered: keys are what requests have.
constexpr size_t kMaxKeyBytes = size_t{64} << 10;

}  // namespace

template <typename Make>
base::Result<Constraints::Pointer> Constraints::get(std::string key, Make make) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(latest_.begin(), latest_.end(),
                                    [&](const Entry& entry) { return entry.key == key; });
    if (found != latest_.end()) {
      latest_.splice(latest_.begin(), latest_, found);
      return found->constraint;
    }
  }
  runtime::reach(runtime::RequestStep::kCompile);
  FF_ASSIGN(grammar::Graph graph, make());
  runtime::reach(runtime::RequestStep::kConstrain);
  FF_ASSIGN(Pointer made, grammar::Constraint::create(std::move(graph), tokens_));
  if (key.size() > kMaxKeyBytes) return made;
  const std::lock_guard lock(mutex_);
  latest_.push_front({std::move(key), made});
  if (latest_.size() > kRemembered) latest_.pop_back();
  return made;
}

base::Result<Constraints::Pointer> Constraints::json_schema(const nlohmann::ordered_json& schema) {
  return get("schema " + schema.dump(), [&] { return grammar::schema_graph(schema); });
}

base::Result<Constraints::Pointer> Constraints::json_object() {
  return get("object", [] { return base::Result<grammar::Graph>(grammar::json_object_graph()); });
}

base::Result<Constraints::Pointer> Constraints::regex(const std::string& pattern) {
  return get("regex " + pattern, [&] { return grammar::regex_graph(pattern); });
}

base::Result<Constraints::Pointer> Constraints::choice(const std::vector<std::string>& choices) {
  return get("choice " + nlohmann::json(choices).dump(),
             [&] { return grammar::choice_graph(choices); });
}

}  // namespace fourfold::serve
