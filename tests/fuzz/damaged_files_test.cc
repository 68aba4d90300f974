// Every truncation of a small file and every change of one of its bytes, through the doors that a
// user's file takes. Whatever comes of it is a Result; the address sanitizer sees the rest.
#include <gtest/gtest.h>

#include "files/gguf.h"
#include "files/safetensors.h"
#include "model/source.h"
#include "runtime/load_tokenizer.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/read_tensors.h"
#include "tests/fuzz/small_files.h"

namespace fourfold::fuzz {
namespace {

int64_t open_gguf(std::string_view content) {
  static MemoryFile file;
  file.write(content);
  const auto gguf = files::open_gguf(file.path());
  if (!gguf.ok()) return 0;
  read_tensors(gguf->tensors);
  const auto source = model::open_model(file.path(), /*dummy=*/false, /*dummy_seed=*/0);
  const auto tokenizer = runtime::load_tokenizer({.name = "small",
                                                  .kind = model::ModelSource::Kind::kGguf,
                                                  .path = file.path(),
                                                  .spec = {},
                                                  .tensors = nullptr});
  if (tokenizer.ok()) (void)tokenizer->encode("ab  b\xff", /*add_special=*/true);
  return source.ok() && tokenizer.ok() ? 1 : 0;
}

int64_t open_safetensors(std::string_view content) {
  static MemoryFile file;
  file.write(content);
  const auto store = files::open_safetensors(file.path());
  if (!store.ok()) return 0;
  read_tensors(*store);
  return 1;
}

// How many prefixes of `whole` open accepts, itself not counted.
template <typename Open>
int64_t accepted_prefixes(const std::string& whole, Open open) {
  int64_t accepted = 0;
  for (size_t size = 0; size < whole.size(); ++size) accepted += open(whole.substr(0, size));
  return accepted;
}

// How many of all changes of one byte open accepts.
template <typename Open>
int64_t accepted_changes(std::string file, Open open) {
  int64_t accepted = 0;
  for (char& byte : file) {
    const char was = byte;
    for (int change = 1; change < 256; ++change) {
      byte = static_cast<char>(was ^ change);
      accepted += open(file);
    }
    byte = was;
  }
  return accepted;
}

TEST(DamagedGguf, IsRefusedWhereverItIsCutOff) {
  ASSERT_EQ(open_gguf(small_gguf()), 1);
  EXPECT_EQ(accepted_prefixes(small_gguf(), open_gguf), 0);
}

TEST(DamagedGguf, IsReadOrRefusedWhateverByteIsChanged) {
  // A change of the data or of a name that nobody asks for is no damage that can be seen.
  const auto size = std::ssize(small_gguf());
  const int64_t accepted = accepted_changes(small_gguf(), open_gguf);
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, size * 255);
}

TEST(DamagedSafetensors, IsRefusedWhereverItIsCutOff) {
  ASSERT_EQ(open_safetensors(small_safetensors()), 1);
  EXPECT_EQ(accepted_prefixes(small_safetensors(), open_safetensors), 0);
}

TEST(DamagedSafetensors, IsReadOrRefusedWhateverByteIsChanged) {
  const auto size = std::ssize(small_safetensors());
  const int64_t accepted = accepted_changes(small_safetensors(), open_safetensors);
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, size * 255);
}

}  // namespace
}  // namespace fourfold::fuzz
