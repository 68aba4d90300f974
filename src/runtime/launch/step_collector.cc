#include "runtime/launch/step_collector.h"

#include <algorithm>
#include <utility>

namespace fourfold::runtime {

void StepCollector::expect(engine::StepId step) {
  const auto parts = static_cast<size_t>(group_.pp) * static_cast<size_t>(group_.dp);
  pending_.push_back(
      {step, std::vector<std::optional<engine::StepOutput>>(parts), static_cast<int64_t>(parts)});
}

base::Status StepCollector::add(int rank, StageReport report) {
  const mesh::Coordinates at = mesh::coordinates(group_, rank);
  const auto entry = std::find_if(pending_.begin(), pending_.end(),
                                  [&](const Pending& p) { return p.step == report.step; });
  const auto part = static_cast<size_t>(at.stage) * static_cast<size_t>(group_.dp) +
                    static_cast<size_t>(at.replica);
  if (entry == pending_.end() || entry->parts[part] || at.shard != 0) {
    return base::fail("it reported step {}, which nobody expects of it", report.step.value);
  }
  entry->parts[part] = std::move(report.output);
  --entry->missing;
  return {};
}

void StepCollector::fail(std::string reason) {
  if (!failure_) failure_ = std::move(reason);
}

bool StepCollector::ready() const {
  return !pending_.empty() && (pending_.front().missing == 0 || failure_);
}

engine::StepResult StepCollector::take() {
  CHECK(ready(), "no step is complete");
  Pending oldest = std::move(pending_.front());
  pending_.pop_front();
  engine::StepResult result;
  result.step = oldest.step;
  if (oldest.missing > 0) {
    result.failed = true;
    result.failure = *failure_;
    return result;
  }
  const auto replicas = static_cast<size_t>(group_.dp);
  result.outputs.resize(replicas);
  for (size_t i = 0; i < oldest.parts.size(); ++i) {
    engine::StepOutput& part = *oldest.parts[i];
    engine::StepOutput& output = result.outputs[i % replicas];
    output.trace.insert(output.trace.end(), part.trace.begin(), part.trace.end());
    if (i + replicas >= oldest.parts.size()) output.sampled = std::move(part.sampled);
  }
  return result;
}

}  // namespace fourfold::runtime
