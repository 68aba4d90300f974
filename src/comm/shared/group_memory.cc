#include "comm/shared/group_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <random>

#include "base/sizes.h"
#include "comm/communicator.h"

namespace fourfold::comm {
namespace {

constexpr int64_t kPage = 4096;
constexpr size_t kReasonBytes = 256;

}  // namespace

struct GroupMemory::Header {
  uint64_t token = 0;
  alignas(64) std::atomic<int> arrived{0};
  Signal gate;  // advances when all ranks have arrived
  std::atomic<bool> abort_begun{false};
  std::array<char, kReasonBytes> reason{};
};

int64_t GroupMemory::region_stride(int size) {
  const auto offsets_bytes = static_cast<int64_t>(sizeof(int64_t)) * (size + 1);
  return base::round_up(offsets_bytes, kPage) + kRegionBytes;
}

int64_t GroupMemory::regions_offset(int size) {
  return base::round_up(static_cast<int64_t>(sizeof(Header) + sizeof(Mail) * size_t(size)), kPage);
}

int64_t GroupMemory::slots_offset(int size) {
  return regions_offset(size) + 2 * size * region_stride(size);
}

int64_t GroupMemory::total_bytes(int size) {
  return slots_offset(size) + int64_t{size} * kSlots * kSlotBytes;
}

GroupMemory::GroupMemory(int size, int fd, void* base) : size_(size), fd_(fd), base_(base) {}

GroupMemory::~GroupMemory() {
  munmap(base_, static_cast<size_t>(total_bytes(size_)));
  close(fd_);
}

base::Result<std::shared_ptr<GroupMemory>> GroupMemory::map(int fd, int size) {
  const auto bytes = static_cast<size_t>(total_bytes(size));
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED) {
    const int error = errno;
    close(fd);
    return base::fail(
        "cannot map {} GiB of address space for a group of {} ranks: {}; is `ulimit -v` set?",
        bytes >> 30, size, std::strerror(error));
  }
  return std::shared_ptr<GroupMemory>(new GroupMemory(size, fd, base));
}

base::Result<std::shared_ptr<GroupMemory>> GroupMemory::create(int size) {
  CHECK(size >= 1, "a group of {} ranks", size);
  const int fd = memfd_create("fourfold-group", MFD_CLOEXEC);
  if (fd < 0) return base::fail("memfd_create: {}", std::strerror(errno));
  if (ftruncate(fd, total_bytes(size)) != 0) {
    const int error = errno;
    close(fd);
    return base::fail("cannot size the memory of a group of {} ranks: {}", size,
                      std::strerror(error));
  }
  FF_ASSIGN(auto memory, map(fd, size));
  std::random_device random;
  new (memory->base_) Header{};
  memory->header().token = uint64_t{random()} << 32 | random();
  for (int rank = 0; rank < size; ++rank) new (&memory->mail(rank)) Mail{};
  return memory;
}

base::Result<std::shared_ptr<GroupMemory>> GroupMemory::open(const Address& address, int size) {
  const std::string path = fmt::format("/proc/{}/fd/{}", address.pid, address.fd);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return base::fail("cannot open {}: {}", path, std::strerror(errno));
  struct stat status {};
  if (fstat(fd, &status) != 0 || status.st_size != total_bytes(size)) {
    close(fd);
    return base::fail("{} is not the memory of a group of {} ranks", path, size);
  }
  FF_ASSIGN(auto memory, map(fd, size));
  if (memory->header().token != address.token) {
    return base::fail("{} is the memory of another group", path);
  }
  return memory;
}

GroupMemory::Address GroupMemory::address() const {
  return {.pid = getpid(), .fd = fd_, .token = header().token};
}

GroupMemory::Header& GroupMemory::header() const {
  return *std::launder(static_cast<Header*>(base_));
}

GroupMemory::Mail& GroupMemory::mail(int rank) const {
  return *std::launder(reinterpret_cast<Mail*>(at(sizeof(Header))) + rank);
}

GroupMemory::Region GroupMemory::region(int parity, int rank) const {
  std::byte* begin = at(regions_offset(size_) + (parity * size_ + rank) * region_stride(size_));
  return {.offsets = reinterpret_cast<int64_t*>(begin),
          .payload = begin + region_stride(size_) - kRegionBytes};
}

std::byte* GroupMemory::slot_payload(int rank, int slot) const {
  return at(slots_offset(size_) + (int64_t{rank} * kSlots + slot) * kSlotBytes);
}

void GroupMemory::barrier(Waiting waiting) {
  Header& h = header();
  // Nobody passes before this rank has arrived, so this is the value of the present round.
  const uint32_t seen = h.gate.load();
  throw_if_aborted();
  if (h.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    h.arrived.store(0, std::memory_order_relaxed);
    h.gate.advance();
  } else {
    h.gate.wait_change(seen, waiting);
  }
  throw_if_aborted();
}

void GroupMemory::abort(std::string_view reason) {
  Header& h = header();
  if (h.abort_begun.exchange(true)) return;
  reason.copy(h.reason.data(), kReasonBytes - 1);
  h.gate.abort();
  for (int rank = 0; rank < size_; ++rank) {
    mail(rank).arrivals.abort();
    mail(rank).releases.abort();
  }
}

void GroupMemory::throw_if_aborted() const {
  if (Signal::aborted(header().gate.load())) throw CommAborted{std::string(header().reason.data())};
}

}  // namespace fourfold::comm
