#include "files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <system_error>
#include <utility>

namespace fourfold::files {

using base::fail;

namespace {

std::string reason(int error_number) { return std::generic_category().message(error_number); }

base::Result<std::span<const std::byte>> map(int fd, const std::string& path) {
  struct stat status = {};
  if (fstat(fd, &status) != 0) return fail("cannot examine {}: {}", path, reason(errno));
  if (S_ISDIR(status.st_mode)) return fail("{} is a directory; expected a file", path);
  if (!S_ISREG(status.st_mode)) return fail("{} is not a regular file", path);
  if (status.st_size == 0) return fail("{} is empty: download it again", path);
  const auto size = static_cast<size_t>(status.st_size);
  void* address = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return fail("cannot map {}: {}", path, reason(errno));
  return std::span(static_cast<const std::byte*>(address), size);
}

}  // namespace

base::Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a FIFO must end in an error instead of waiting for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return fail("cannot open {}: {}", path.string(), reason(errno));
  const auto mapped = map(fd, path.string());
  if (!mapped.ok()) {
    close(fd);
    return mapped.error();
  }
  MappedFile file(path.string(), fd, mapped.value());
  if (file.text().starts_with("version https://git-lfs.github.com/spec/")) {
    return fail("{} is a Git LFS pointer, not the file itself: run `git lfs pull`", file.path());
  }
  return file;
}

MappedFile::MappedFile(std::string path, int fd, std::span<const std::byte> bytes)
    : path_(std::move(path)), fd_(fd), bytes_(bytes) {}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  if (fd_ >= 0) close(fd_);
}

std::string_view MappedFile::text() const {
  return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
}

base::Status MappedFile::read(int64_t offset, std::span<std::byte> out) const {
  CHECK(offset >= 0 && offset <= size() - std::ssize(out), "[{}, +{}) of {} bytes", offset,
        out.size(), size());
  while (!out.empty()) {
    const ssize_t n = pread(fd_, out.data(), out.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("cannot read {}: {}", path_, reason(errno));
    if (n == 0) return fail("{} was shortened to {} bytes while it was read", path_, offset);
    out = out.subspan(static_cast<size_t>(n));
    offset += n;
  }
  return {};
}

void MappedFile::will_need(int64_t offset, int64_t size) const {
  advise(offset, size, MADV_WILLNEED);
}

void MappedFile::release(int64_t offset, int64_t size) const {
  advise(offset, size, MADV_DONTNEED);
}

void MappedFile::advise(int64_t offset, int64_t size, int advice) const {
  CHECK(offset >= 0 && size >= 0 && offset <= this->size() - size, "[{}, +{}) of {} bytes", offset,
        size, this->size());
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t begin = offset / page * page;
  if (size == 0) return;
  // A hint: the bytes are the same whether or not the kernel follows it.
  (void)madvise(const_cast<std::byte*>(bytes_.data() + begin),
                static_cast<size_t>(offset + size - begin), advice);
}

}  // namespace fourfold::files
