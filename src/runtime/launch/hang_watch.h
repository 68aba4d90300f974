#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "comm/progress.h"
#include "runtime/worker.h"

namespace fourfold::runtime {

/// The rank because of which a group stands still, and how it is known.
struct Hang {
  int rank = 0;
  std::string what;    ///< "hangs in step 5, layer 3, mlp for 5.2 s; rank 0 waits for it in ..."
  double still_s = 0;  ///< since the latest mark of any rank that counts
};

/// "step 5, layer 3, mlp", "step 5, layer 3, mlp, in all-reduce 96 of the tp group"
std::string describe(const comm::Position& position);

/// Judges by the marks of a group's ranks whether it stands still, and which rank is to blame. It
/// looks at counters, not at how long one operation takes, and at no clock but the one it is given.
///
/// A group with work whose ranks make not one mark for max(5 s, 20 times the typical time of a
/// layer) stands still. To blame is the rank that the oldest open call waits for; if that one waits
/// in a call, too, the rank that it waits for, and so on. While a rank loads it is judged alone.
///
/// Times are points of the front's steady clock. Not thread-safe.
class HangWatch {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit HangWatch(const RankConfig& config);

  /// `position`, as the front learnt it `now`.
  void observe(int rank, const comm::Position& position, TimePoint now);
  const comm::Position& position(int rank) const { return seen_.at(size_t(rank)).position; }

  /// What the ranks have been asked for.
  struct Work {
    bool any = false;
    double measure_s = 0;  ///< they measure their peaks for so long, without a mark
  };
  /// Regularly, at least every kMaxTick. Whoever comes later than that has been without a core or
  /// was stopped itself, so it has not heard what ranks said meanwhile: it gives them their whole
  /// time again. True if that was so.
  bool tick(const Work& work, TimePoint now);
  static constexpr std::chrono::seconds kMaxTick{1};

  std::optional<Hang> find(TimePoint now) const;

 private:
  struct Seen {
    comm::Position position;
    TimePoint moved;  ///< when the front learnt of its latest mark
    TimePoint since;  ///< when it began with what it does
  };

  std::chrono::nanoseconds limit() const;
  std::optional<Hang> stuck_load(TimePoint now) const;
  int blame() const;
  std::optional<int> awaited_by(int rank) const;
  std::vector<int> members(int rank, mesh::Axis axis) const;
  Hang report(int rank, TimePoint moved, TimePoint now) const;

  RankConfig config_;
  std::vector<Seen> seen_;
  Work work_;
  TimePoint ticked_;
  TimePoint idle_until_;
};

}  // namespace fourfold::runtime
