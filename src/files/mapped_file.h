#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fourfold::files {

/// A whole regular file, mapped read-only and open. The bytes live as long as the object and do not
/// move when it is moved. They are read from disk when touched: if another program shortens the
/// file meanwhile, touching the lost part raises SIGBUS, so copy out what must outlive loading.
class MappedFile {
 public:
  /// Errors: missing, not readable, a directory or another special file, empty, or a Git LFS
  /// pointer in place of the file it stands for.
  static base::Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const;
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  /// As given to open(); for messages.
  const std::string& path() const { return path_; }

  /// Copies bytes [offset, offset + out.size()), quicker than through the mapping where they are
  /// needed once. Errors: the file ends before them by now, a disk that fails.
  base::Status read(int64_t offset, std::span<std::byte> out) const;

  /// Starts reading these bytes from disk in the background.
  void will_need(int64_t offset, int64_t size) const;
  /// Gives back the memory of these bytes, which stay readable, to keep the resident set small.
  void release(int64_t offset, int64_t size) const;

 private:
  MappedFile(std::string path, int fd, std::span<const std::byte> bytes);
  void advise(int64_t offset, int64_t size, int advice) const;

  std::string path_;
  int fd_;  ///< -1: moved from
  std::span<const std::byte> bytes_;
};

}  // namespace fourfold::files
