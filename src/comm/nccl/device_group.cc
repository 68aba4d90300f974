#include "comm/device_group.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "comm/nccl/nccl_library.h"
#include "comm/nccl/peer_kernels.h"

namespace fourfold::comm {
namespace {

void check(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(fmt::format("the GPU failed: {} ({}) when {}",
                                       cudaGetErrorString(status), cudaGetErrorName(status), what));
}

/// Memory of the current GPU.
class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t bytes) {
    check(cudaMalloc(&data_, static_cast<size_t>(bytes)), "allocating buffers of a group");
    check(cudaMemset(data_, 0, static_cast<size_t>(bytes)), "clearing buffers of a group");
  }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

/// Everybody's value, by rank.
template <typename T>
std::vector<T> gather(Communicator& group, const T& mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> all(static_cast<size_t>(group.size()));
  group.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  return all;
}

/// What ranks tell each other before anything is made.
struct Card {
  std::array<char, 256> error{};  ///< of loading NCCL; empty: it is there
  std::array<char, 64> host{};
  std::array<char, sizeof(cudaUUID_t)> gpu{};
  ncclUniqueId id{};  ///< rank 0's

  bool same_host(const Card& other) const { return host == other.host; }
};

template <size_t kSize>
void copy_text(std::string_view text, std::array<char, kSize>& out) {
  std::copy_n(text.begin(), std::min(text.size(), kSize - 1), out.begin());
}

Card make_card(int rank, const Nccl* nccl, const std::string& error) {
  Card card;
  copy_text(error, card.error);
  gethostname(card.host.data(), card.host.size() - 1);
  int device = 0;
  check(cudaGetDevice(&device), "asking which it is");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "asking what it is");
  std::memcpy(card.gpu.data(), properties.uuid.bytes, card.gpu.size());
  if (rank == 0 && nccl != nullptr) nccl->check(nccl->get_unique_id(&card.id), "naming a group");
  return card;
}

base::Status check_cards(const std::vector<Card>& cards) {
  for (size_t r = 0; r < cards.size(); ++r) {
    if (cards[r].error[0] != 0) {
      return base::fail(
          "ranks with a GPU each talk over NCCL, and rank {} of the group cannot load it ({}): "
          "install it (pip install nvidia-nccl-cu13, or the package libnccl2) and put its folder "
          "on LD_LIBRARY_PATH, or let the ranks share one GPU (--ranks threads)",
          r, cards[r].error.data());
    }
    for (size_t other = 0; other < r; ++other) {
      if (cards[r].same_host(cards[other]) && cards[r].gpu == cards[other].gpu) {
        return base::fail("ranks {} and {} of a group have the same GPU; each needs one of its own",
                          other, r);
      }
    }
  }
  return {};
}

/// Whether this process can write to the memory of all the others' GPUs.
bool reaches_all(const std::vector<Card>& cards, int rank) {
  if (std::ssize(cards) > kMaxPeers) return false;
  int device = 0;
  int count = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaGetDeviceCount(&count) != cudaSuccess) {
    return false;
  }
  const Card& mine = cards[static_cast<size_t>(rank)];
  for (const Card& card : cards) {
    if (card.gpu == mine.gpu) continue;
    bool reached = false;
    for (int other = 0; other < count && card.same_host(mine); ++other) {
      cudaDeviceProp properties{};
      int can = 0;
      if (cudaGetDeviceProperties(&properties, other) != cudaSuccess ||
          std::memcmp(properties.uuid.bytes, card.gpu.data(), card.gpu.size()) != 0) {
        continue;
      }
      reached = cudaDeviceCanAccessPeer(&can, device, other) == cudaSuccess && can == 1;
    }
    if (!reached) return false;
  }
  return true;
}

/// One rank's.
class NcclGroup final : public DeviceGroup {
 public:
  NcclGroup(const Nccl& nccl, ncclComm_t comm, int rank, int size)
      : nccl_(nccl),
        comm_(comm),
        state_(sizeof(PeerState)),
        staging_(kStagingFloats * static_cast<int64_t>(sizeof(float))) {
    peers_.rank = rank;
    peers_.size = size;
    peers_.state = static_cast<PeerState*>(state_.data());
  }

  ~NcclGroup() override {
    nccl_.destroy(comm_);
    for (void* opened : opened_) cudaIpcCloseMemHandle(opened);
  }
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  /// Joins the memory of GPUs that reach each other's. Collective. Returns false, on all ranks,
  /// where one of them cannot show its memory or open another's: then all do without.
  bool join_memory(Communicator& group) {
    const int64_t capacity = kPeerBytes / peers_.size / kPackBytes * kPackBytes;
    struct Shown {
      cudaIpcMemHandle_t data;
      cudaIpcMemHandle_t flags;
      bool ok;
    };
    Shown mine{};
    try {
      buffers_.emplace(2 * peers_.size * capacity);
      flags_.emplace(static_cast<int64_t>(sizeof(PeerFlags)));
      check(cudaIpcGetMemHandle(&mine.data, buffers_->data()), "sharing buffers");
      check(cudaIpcGetMemHandle(&mine.flags, flags_->data()), "sharing flags");
      mine.ok = true;
    } catch (const std::runtime_error& error) {
      spdlog::warn("a group of GPUs does without its memory: {}", error.what());
    }
    const std::vector<Shown> all = gather(group, mine);
    Peers joined = peers_;
    bool ok = std::all_of(all.begin(), all.end(), [](const Shown& shown) { return shown.ok; });
    const auto open = [&](const cudaIpcMemHandle_t& handle) -> void* {
      void* memory = nullptr;
      if (!ok) return nullptr;
      const cudaError_t status =
          cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess);
      if (status == cudaSuccess) {
        opened_.push_back(memory);
        return memory;
      }
      cudaGetLastError();
      spdlog::warn("a group of GPUs does without its memory: {}", cudaGetErrorString(status));
      ok = false;
      return nullptr;
    };
    for (int r = 0; r < peers_.size; ++r) {
      const auto i = static_cast<size_t>(r);
      const bool own = r == peers_.rank;
      joined.data[i] = static_cast<std::byte*>(own ? buffers_->data() : open(all[i].data));
      joined.flags[i] = static_cast<PeerFlags*>(own ? flags_->data() : open(all[i].flags));
    }
    // Nobody writes before all have opened.
    const std::vector<int> opened = gather(group, ok ? 1 : 0);
    if (!std::all_of(opened.begin(), opened.end(), [](int o) { return o == 1; })) return false;
    joined.capacity = capacity;
    peers_ = joined;
    return true;
  }

  void all_reduce_sum(void* stream, float* data, int64_t count, Wire wire) override {
    CHECK(wire == Wire::kBF16 ||
              (std::has_single_bit(static_cast<unsigned>(peers_.size)) && peers_.size <= kMaxPeers),
          "a sum in fp32 over {} ranks", peers_.size);
    auto* const s = static_cast<cudaStream_t>(stream);
    const int64_t bytes = count * bytes_of(wire);
    if (joined() && count % 8 == 0 && bytes <= most_own_bytes()) {
      const int64_t most = peers_.capacity / bytes_of(wire);
      for (int64_t begin = 0; begin < count; begin += most) {
        check(peer_all_reduce(s, peers_, data + begin, std::min(most, count - begin), wire),
              "adding over ranks");
      }
      return;
    }
    timed(s, /*peer=*/-1, bytes, [&] {
      for (int64_t begin = 0; begin < count; begin += kStagingFloats) {
        const int64_t n = std::min(kStagingFloats, count - begin);
        if (wire == Wire::kBF16) {
          add_rounded(s, data + begin, n);
        } else {
          add_by_tree(s, data + begin, n);
        }
      }
    });
  }

  bool all_reduce_add_norm(void* stream, const float* data, float* residual, const float* gain,
                           float eps, int64_t rows, int64_t columns, uint16_t* out) override {
    const int64_t row_bytes = columns * bytes_of(Wire::kBF16);
    if (!joined() || rows == 0 || columns % 8 != 0 || columns > kMostNormColumns ||
        rows * row_bytes > most_own_bytes()) {
      return false;
    }
    const int64_t most = peers_.capacity / row_bytes;
    for (int64_t begin = 0; begin < rows; begin += most) {
      const int64_t at = begin * columns;
      check(peer_all_reduce_add_norm(static_cast<cudaStream_t>(stream), peers_, data + at,
                                     residual + at, gain, eps, std::min(most, rows - begin),
                                     columns, out + at),
            "adding over ranks and norming");
    }
    return true;
  }

  void all_gather(void* stream, const void* in, void* out, int64_t bytes) override {
    auto* const s = static_cast<cudaStream_t>(stream);
    if (joined() && bytes % 16 == 0 && bytes <= std::min(peers_.capacity, most_own_bytes())) {
      return check(peer_all_gather(s, peers_, in, out, bytes), "gathering from ranks");
    }
    timed(s, /*peer=*/-1, bytes, [&] {
      nccl_.check(nccl_.all_gather(in, out, static_cast<size_t>(bytes), ncclUint8, comm_, s),
                  "gathering from ranks");
    });
  }

  void send(void* stream, const float* data, int64_t count, Wire wire, int to) override {
    auto* const s = static_cast<cudaStream_t>(stream);
    timed(s, to, count * bytes_of(wire), [&] {
      for_pieces(count, [&](int64_t begin, int64_t n) {
        if (wire == Wire::kF32) return send_bytes(s, data + begin, n * 4, to);
        check(round_floats(s, data + begin, staged_bits(), n), "rounding what is sent");
        send_bytes(s, staged_bits(), n * 2, to);
      });
    });
  }

  void recv(void* stream, float* data, int64_t count, Wire wire, int from) override {
    auto* const s = static_cast<cudaStream_t>(stream);
    timed(s, from, 0, [&] {
      for_pieces(count, [&](int64_t begin, int64_t n) {
        if (wire == Wire::kF32) return recv_bytes(s, data + begin, n * 4, from);
        recv_bytes(s, staged_bits(), n * 2, from);
        check(widen_floats(s, staged_bits(), data + begin, n), "widening what was received");
      });
    });
  }

  CommStats stats() const override {
    PeerState state{};
    check(cudaMemcpy(&state, state_.data(), sizeof(state), cudaMemcpyDeviceToHost),
          "reading a group's clock");
    return {.seconds = static_cast<double>(state.ns) * 1e-9,
            .wait_seconds = static_cast<double>(state.wait_ns) * 1e-9,
            .bytes = static_cast<int64_t>(state.bytes),
            .calls = static_cast<int64_t>(state.calls)};
  }

 private:
  static constexpr int64_t kPackBytes = 16;  // that a thread moves at once
  static constexpr int64_t kStagingFloats = int64_t{16} << 20;
  /// Of all ranks' parts of one call together.
  static constexpr int64_t kPeerBytes = int64_t{16} << 20;

  bool joined() const { return peers_.capacity > 0; }

  /// Every rank writes all that it has to all others: NCCL, which does not, moves less where there
  /// are many and much. Between two ranks ours is the quicker one whatever the size, and goes
  /// through its buffers as often as it takes (8 MiB: 21 us beside NCCL's 32 on H200s, to which its
  /// rounding and widening come).
  int64_t most_own_bytes() const {
    return peers_.size == 2 ? std::numeric_limits<int64_t>::max()
                            : peers_.capacity * 2 / peers_.size;
  }

  uint16_t* staged_bits() const { return static_cast<uint16_t*>(staging_.data()); }

  template <typename Enqueue>
  void timed(cudaStream_t stream, int peer, int64_t bytes, Enqueue enqueue) {
    check(meet(stream, peers_, peer), "meeting its peers");
    enqueue();
    check(end_call(stream, peers_, bytes), "ending a call of its group");
  }

  template <typename Piece>
  static void for_pieces(int64_t count, Piece piece) {
    for (int64_t begin = 0; begin < count; begin += kStagingFloats) {
      piece(begin, std::min(kStagingFloats, count - begin));
    }
  }

  void send_bytes(cudaStream_t stream, const void* data, int64_t bytes, int to) {
    nccl_.check(nccl_.send(data, static_cast<size_t>(bytes), ncclUint8, to, comm_, stream),
                "sending to a rank");
  }
  void recv_bytes(cudaStream_t stream, void* data, int64_t bytes, int from) {
    nccl_.check(nccl_.recv(data, static_cast<size_t>(bytes), ncclUint8, from, comm_, stream),
                "receiving from a rank");
  }

  void add_rounded(cudaStream_t stream, float* data, int64_t count) {
    check(round_floats(stream, data, staged_bits(), count), "rounding what is added");
    nccl_.check(nccl_.all_reduce(staged_bits(), staged_bits(), static_cast<size_t>(count),
                                 ncclBfloat16, ncclSum, comm_, stream),
                "adding over ranks");
    check(widen_floats(stream, staged_bits(), data, count), "widening what was added");
  }

  /// Each rank adds one part of all ranks' floats and gives the sums to the others. NCCL's own sums
  /// have an order that depends on the machine.
  void add_by_tree(cudaStream_t stream, float* data, int64_t count) {
    const int size = peers_.size;
    const auto part = [&](int r) { return count * r / size; };
    const int me = peers_.rank;
    const int64_t mine = part(me + 1) - part(me);
    auto* const parts = static_cast<float*>(staging_.data());
    const auto bytes_between = [&](int r) { return (part(r + 1) - part(r)) * 4; };
    nccl_.check(nccl_.group_start(), "adding over ranks");
    for (int r = 0; r < size; ++r) {
      send_bytes(stream, data + part(r), bytes_between(r), r);
      recv_bytes(stream, parts + r * mine, mine * 4, r);
    }
    nccl_.check(nccl_.group_end(), "adding over ranks");
    check(tree_sum(stream, parts, mine, size, data + part(me), mine), "adding over ranks");
    nccl_.check(nccl_.group_start(), "sharing sums");
    for (int r = 0; r < size; ++r) {
      if (r == me) continue;
      send_bytes(stream, data + part(me), mine * 4, r);
      recv_bytes(stream, data + part(r), bytes_between(r), r);
    }
    nccl_.check(nccl_.group_end(), "sharing sums");
  }

  const Nccl& nccl_;
  ncclComm_t comm_;
  DeviceMemory state_;
  DeviceMemory staging_;
  std::optional<DeviceMemory> buffers_;
  std::optional<DeviceMemory> flags_;
  std::vector<void*> opened_;
  Peers peers_;
};

}  // namespace

base::Result<std::unique_ptr<DeviceGroup>> connect_devices(Communicator& group, DevicePaths paths) {
  std::string error;
  const Nccl* nccl = Nccl::get(error);
  const std::vector<Card> cards = gather(group, make_card(group.rank(), nccl, error));
  FF_TRY(check_cards(cards));
  ncclComm_t comm = nullptr;
  nccl->check(nccl->init_rank(&comm, group.size(), cards.front().id, group.rank()),
              "joining a group");
  auto out = std::make_unique<NcclGroup>(*nccl, comm, group.rank(), group.size());
  const std::vector<int> reach = gather(group, reaches_all(cards, group.rank()) ? 1 : 0);
  if (paths == DevicePaths::kNccl) return std::unique_ptr<DeviceGroup>(std::move(out));
  if (std::all_of(reach.begin(), reach.end(), [](int r) { return r == 1; })) {
    out->join_memory(group);
  } else if (group.rank() == 0) {
    spdlog::info("the GPUs of a group do not reach each other's memory: everything goes over NCCL");
  }
  return std::unique_ptr<DeviceGroup>(std::move(out));
}

}  // namespace fourfold::comm
