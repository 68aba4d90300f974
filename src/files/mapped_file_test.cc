#include "files/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "files/scratch_folder.h"

namespace fourfold::files {
namespace {

using testing::EndsWith;
using testing::HasSubstr;

std::string error_of(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return file.ok() ? "no error" : file.error().message;
}

TEST(MappedFile, KeepsItsBytesInPlaceWhenMoved) {
  const ScratchFolder folder;
  MappedFile first = MappedFile::open(folder.write("a", "abc")).value();
  const std::byte* const address = first.bytes().data();
  MappedFile second = std::move(first);
  EXPECT_EQ(second.text(), "abc");
  EXPECT_EQ(second.size(), 3);
  EXPECT_EQ(second.bytes().data(), address);
  MappedFile third = MappedFile::open(folder.write("b", "xy")).value();
  third = std::move(second);
  EXPECT_EQ(third.text(), "abc");
  EXPECT_EQ(third.path(), (folder.path() / "a").string());
}

TEST(MappedFile, StaysReadableAfterHints) {
  const ScratchFolder folder;
  std::string content(20000, 'x');
  content[10000] = 'y';
  const MappedFile file = MappedFile::open(folder.write("a", content)).value();
  file.will_need(5000, 6000);
  file.release(5000, 6000);
  file.release(20000, 0);
  EXPECT_EQ(file.text(), content);
}

TEST(MappedFile, CopiesBytesAndSaysThatTheFileWasShortened) {
  const ScratchFolder folder;
  const auto path = folder.write("a", "0123456789");
  const MappedFile file = MappedFile::open(path).value();
  std::string out(4, ' ');
  ASSERT_TRUE(file.read(3, std::as_writable_bytes(std::span(out))).ok());
  EXPECT_EQ(out, "3456");
  EXPECT_TRUE(file.read(10, {}).ok());
  std::filesystem::resize_file(path, 5);
  EXPECT_THAT(file.read(3, std::as_writable_bytes(std::span(out))).error().message,
              EndsWith("a was shortened to 5 bytes while it was read"));
}

TEST(MappedFile, SaysWhyAFileCannotBeRead) {
  const ScratchFolder folder;
  EXPECT_THAT(error_of(folder.path() / "missing"), EndsWith("missing: No such file or directory"));
  EXPECT_THAT(error_of(folder.path()), EndsWith("is a directory; expected a file"));
  EXPECT_THAT(error_of(folder.write("empty", "")), EndsWith("is empty: download it again"));
  const auto fifo = folder.path() / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(error_of(fifo), EndsWith("is not a regular file"));
}

TEST(MappedFile, SaysThatPermissionIsDenied) {
  const ScratchFolder folder;
  const auto path = folder.write("secret", "abc");
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  const uid_t user = geteuid();
  constexpr uid_t kNobody = 65534;  // root may read everything
  ASSERT_EQ(seteuid(user == 0 ? kNobody : user), 0);
  const std::string message = error_of(path);
  ASSERT_EQ(seteuid(user), 0);
  EXPECT_THAT(message, EndsWith("secret: Permission denied"));
}

TEST(MappedFile, RecognisesAGitLfsPointer) {
  const ScratchFolder folder;
  const auto path = folder.write(
      "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n");
  EXPECT_THAT(error_of(path), HasSubstr("is a Git LFS pointer"));
}

}  // namespace
}  // namespace fourfold::files
