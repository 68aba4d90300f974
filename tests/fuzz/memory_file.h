#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "base/check.h"

namespace fourfold::fuzz {

/// A file of memory with a path, for parsers that open their file themselves.
class MemoryFile {
 public:
  MemoryFile()
      : fd_(memfd_create("fuzz", MFD_CLOEXEC)), path_(fmt::format("/proc/self/fd/{}", fd_)) {
    CHECK(fd_ >= 0, "no file of memory");
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { close(fd_); }

  /// Replaces what the file holds.
  void write(std::string_view content) {
    CHECK(ftruncate(fd_, 0) == 0, "cannot empty a file of memory");
    const ssize_t written = pwrite(fd_, content.data(), content.size(), 0);
    CHECK(written == std::ssize(content), "{} of {} bytes written", written, content.size());
  }
  /// Changes one byte of it.
  void write_byte(size_t at, char byte) {
    CHECK(pwrite(fd_, &byte, 1, static_cast<off_t>(at)) == 1, "byte {} was not written", at);
  }
  const std::string& path() const { return path_; }

 private:
  int fd_;
  std::string path_;
};

}  // namespace fourfold::fuzz
