#include "comm/local/local_world.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"
#include "comm/shared/shared_communicator.h"

namespace fourfold::comm {

/// All groups of a world, so that they can be aborted together, and those of a split that not all
/// of its ranks have joined yet.
struct LocalWorld::Groups {
  /// Which group of which split: parent, how many splits it had before, color.
  using SplitKey = std::tuple<const GroupMemory*, int, int>;
  struct Joining {
    std::shared_ptr<GroupMemory> memory;
    int joined = 0;
  };

  std::shared_ptr<GroupMemory> create(int size) {
    const std::lock_guard lock(mutex);
    return create_locked(size);
  }

  std::shared_ptr<GroupMemory> join(const SplitKey& key, int size) {
    const std::lock_guard lock(mutex);
    const auto [entry, is_new] = joining.try_emplace(key);
    if (is_new) entry->second.memory = create_locked(size);
    std::shared_ptr<GroupMemory> memory = entry->second.memory;
    if (++entry->second.joined == size) joining.erase(entry);
    return memory;
  }

  void abort(std::string_view reason) {
    const std::lock_guard lock(mutex);
    if (!abort_reason) abort_reason = reason;
    for (const auto& group : alive) {
      if (const auto memory = group.lock()) memory->abort(*abort_reason);
    }
  }

 private:
  std::shared_ptr<GroupMemory> create_locked(int size) {
    std::shared_ptr<GroupMemory> memory = GroupMemory::create(size).value();
    if (abort_reason) memory->abort(*abort_reason);
    std::erase_if(alive, [](const auto& group) { return group.expired(); });
    alive.push_back(memory);
    return memory;
  }

  std::mutex mutex;
  std::vector<std::weak_ptr<GroupMemory>> alive;
  std::map<SplitKey, Joining> joining;
  std::optional<std::string> abort_reason;
};

namespace {

class LocalCommunicator final : public SharedCommunicator {
 public:
  LocalCommunicator(std::shared_ptr<LocalWorld::Groups> groups, std::shared_ptr<GroupMemory> memory,
                    int rank, mesh::Axis axis, Waiting waiting)
      : SharedCommunicator(std::move(memory), rank, axis, waiting), groups_(std::move(groups)) {}

  std::unique_ptr<Communicator> split(int color, int key, mesh::Axis axis) override {
    struct Choice {
      int color;
      int key;
      int rank;
    };
    CHECK(color >= 0, "split with color {}", color);
    const Choice mine{color, key, rank()};
    std::vector<Choice> choices(static_cast<size_t>(size()));
    all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(choices)));
    std::erase_if(choices, [&](const Choice& c) { return c.color != color; });
    std::stable_sort(choices.begin(), choices.end(),
                     [](const Choice& a, const Choice& b) { return a.key < b.key; });
    const auto me = std::find_if(choices.begin(), choices.end(),
                                 [&](const Choice& c) { return c.rank == rank(); });
    auto group = groups_->join({&memory(), splits_++, color}, static_cast<int>(choices.size()));
    return std::make_unique<LocalCommunicator>(
        groups_, std::move(group), static_cast<int>(me - choices.begin()), axis, waiting());
  }

 private:
  std::shared_ptr<LocalWorld::Groups> groups_;
  int splits_ = 0;
};

}  // namespace

LocalWorld::LocalWorld(int size, Waiting waiting)
    : groups_(std::make_shared<Groups>()), world_(groups_->create(size)), waiting_(waiting) {}

std::unique_ptr<Communicator> LocalWorld::communicator(int rank) {
  return std::make_unique<LocalCommunicator>(groups_, world_, rank, mesh::Axis::kControl, waiting_);
}

void LocalWorld::abort(std::string_view reason) { groups_->abort(reason); }

std::unique_ptr<Communicator> make_single(mesh::Axis axis) {
  return LocalWorld(1).communicator(0)->split(0, 0, axis);
}

}  // namespace fourfold::comm
