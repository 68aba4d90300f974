#include "runtime/launch/hang_watch.h"

#include <algorithm>
#include <array>

namespace fourfold::runtime {
namespace {

using comm::Operation;
using comm::Position;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr seconds kShortest(5);
constexpr int kLayerTimes = 20;
/// Without a mark: for a rank that loads, and for steps before it is known what a layer takes.
constexpr seconds kUnknown(30);
/// For measuring peaks, which touches up to 1 GiB first: on a crowded machine that takes its time.
constexpr seconds kMeasuring(120);
constexpr int kMeasureTimes = 10;

bool is_loading(const Position& position) {
  return position.operation == Operation::kStart || position.operation == Operation::kMeet ||
         position.operation == Operation::kLoad || position.operation == Operation::kPrepare;
}

double to_seconds(nanoseconds time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

std::string describe(const Position& position) {
  std::string out;
  if (position.step >= 0) out += fmt::format("step {}, ", position.step);
  if (position.layer >= 0) out += fmt::format("layer {}, ", position.layer);
  out += name_of(position.operation);
  if (position.call) {
    out += fmt::format(", in {} {} of the {} group", name_of(position.call->kind),
                       position.call->sequence, name_of(position.call->axis));
  }
  return out;
}

HangWatch::HangWatch(const RankConfig& config)
    : config_(config), seen_(static_cast<size_t>(config.group.devices())) {}

void HangWatch::observe(int rank, const Position& position, TimePoint now) {
  Seen& seen = seen_.at(static_cast<size_t>(rank));
  if (position.marks != seen.position.marks || seen.moved == TimePoint()) seen.moved = now;
  seen.position = position;
  seen.since = now - nanoseconds(position.age_ns);
}

bool HangWatch::tick(const Work& work, TimePoint now) {
  const bool late = ticked_ != TimePoint() && now - ticked_ > kMaxTick;
  if (late) {
    for (Seen& seen : seen_) {
      if (seen.moved != TimePoint()) seen.moved = now;
    }
  }
  // A measurement is over when all ranks have given its figures, which may be news before their
  // next position is.
  const bool measured = work_.measure_s > 0 && work.measure_s == 0;
  if (!work.any || measured) idle_until_ = now;
  work_ = work;
  ticked_ = now;
  return late;
}

std::optional<Hang> HangWatch::find(TimePoint now) const {
  if (std::optional<Hang> hang = stuck_load(now)) return hang;
  if (!work_.any) return std::nullopt;
  TimePoint moved = idle_until_;
  for (const Seen& seen : seen_) moved = std::max(moved, seen.moved);
  if (moved == TimePoint() || now - moved <= limit()) return std::nullopt;
  return report(blame(), moved, now);
}

nanoseconds HangWatch::limit() const {
  nanoseconds limit = kShortest;
  for (const Seen& seen : seen_) {
    if (seen.position.operation == Operation::kIdle) continue;
    limit = std::max<nanoseconds>(limit, kLayerTimes * nanoseconds(seen.position.layer_ns));
    if (seen.position.layer_ns == 0) limit = std::max<nanoseconds>(limit, kUnknown);
  }
  if (work_.measure_s > 0) {
    limit += kMeasuring + std::chrono::duration_cast<nanoseconds>(
                              std::chrono::duration<double>(kMeasureTimes * work_.measure_s));
  }
  return limit;
}

/// Of the ranks that stand still before they are ready; one that waits for the others to start is
/// the last to blame.
std::optional<Hang> HangWatch::stuck_load(TimePoint now) const {
  std::optional<int> stuck;
  for (size_t r = 0; r < seen_.size(); ++r) {
    const Seen& seen = seen_[r];
    if (seen.moved == TimePoint() || !is_loading(seen.position) || now - seen.moved <= kUnknown) {
      continue;
    }
    if (!stuck || (position(*stuck).operation == Operation::kMeet &&
                   seen.position.operation != Operation::kMeet)) {
      stuck = static_cast<int>(r);
    }
  }
  if (!stuck) return std::nullopt;
  return report(*stuck, seen_[static_cast<size_t>(*stuck)].moved, now);
}

int HangWatch::blame() const {
  // An open call is the best clue, then a rank that is in a step at all; among equals the oldest.
  const auto clue = [](const Seen& seen) {
    if (seen.position.call) return 2;
    return seen.position.operation == Operation::kIdle ? 0 : 1;
  };
  const auto first =
      std::max_element(seen_.begin(), seen_.end(), [&](const Seen& a, const Seen& b) {
        return clue(a) != clue(b) ? clue(a) < clue(b) : a.since > b.since;
      });
  int rank = static_cast<int>(first - seen_.begin());
  // A circle of ranks that wait for each other ends where it closes.
  for (size_t i = 0; i < seen_.size(); ++i) {
    const std::optional<int> next = awaited_by(rank);
    if (!next) break;
    rank = *next;
  }
  return rank;
}

/// The rank that is missing from the call in which `rank` waits: the other end of a transfer, or
/// of those that have not come to a collective the one that has stood still for longest.
std::optional<int> HangWatch::awaited_by(int rank) const {
  const std::optional<comm::OpenCall>& call = position(rank).call;
  if (!call) return std::nullopt;
  const std::vector<int> group = members(rank, call->axis);
  if (call->peer >= 0) return group.at(static_cast<size_t>(call->peer));
  std::optional<int> missing;
  for (const int other : group) {
    const std::optional<comm::OpenCall>& theirs = position(other).call;
    const bool has_come =
        theirs && theirs->axis == call->axis && theirs->sequence >= call->sequence;
    if (other == rank || has_come) continue;
    if (!missing || seen_[size_t(other)].since < seen_[size_t(*missing)].since) missing = other;
  }
  return missing;
}

/// The ranks of the group's own numbering that share `axis` with `rank`, in order.
std::vector<int> HangWatch::members(int rank, mesh::Axis axis) const {
  // What the ranks of a group have in common.
  const auto key = [&](int r) -> std::array<int, 3> {
    const mesh::Coordinates at = mesh::coordinates(config_.group, r);
    const mesh::ExpertCoordinates expert = mesh::expert_coordinates(config_.group, r);
    switch (axis) {
      case mesh::Axis::kTensor:
        return {at.stage, at.replica};
      case mesh::Axis::kPipeline:
        return {at.replica, at.shard};
      case mesh::Axis::kExpert:  // the whole block
        return {at.stage, expert.edp};
      case mesh::Axis::kExpertTensor:
        return {at.stage, expert.edp, expert.ep};
      default:
        return {};
    }
  };
  std::vector<int> out;
  for (int other = 0; other < config_.group.devices(); ++other) {
    if (key(other) == key(rank)) out.push_back(other);
  }
  return out;
}

Hang HangWatch::report(int rank, TimePoint moved, TimePoint now) const {
  const Seen& seen = seen_[static_cast<size_t>(rank)];
  Hang hang{.rank = rank,
            .what = fmt::format("hangs in {} for {:.1f} s", describe(seen.position),
                                to_seconds(now - seen.since)),
            .still_s = to_seconds(now - moved)};
  for (int other = 0; other < std::ssize(seen_); ++other) {
    if (other == rank || awaited_by(other) != rank) continue;
    hang.what += fmt::format("; rank {} waits for it in {}", world_rank(config_, other),
                             describe(position(other)));
    break;
  }
  return hang;
}

}  // namespace fourfold::runtime
