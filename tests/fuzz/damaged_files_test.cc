// Every truncation of a small file and every change of one of its bytes, through the doors that a
// user's file takes. Whatever comes of it is a Result; the address sanitizer sees the rest.
#include <gtest/gtest.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "files/gguf.h"
#include "files/safetensors.h"
#include "model/source.h"
#include "runtime/load_tokenizer.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/read_tensors.h"
#include "tests/fuzz/small_files.h"

namespace fourfold::fuzz {
namespace {

bool open_gguf(const std::string& path) {
  const auto gguf = files::open_gguf(path);
  if (!gguf.ok()) return false;
  read_tensors(gguf->tensors);
  const auto source = model::open_model(path, /*dummy=*/false, /*dummy_seed=*/0);
  const auto tokenizer = runtime::load_tokenizer({.name = "small",
                                                  .kind = model::ModelSource::Kind::kGguf,
                                                  .path = path,
                                                  .spec = {},
                                                  .tensors = nullptr});
  if (tokenizer.ok()) (void)tokenizer->encode("ab  b\xff", /*add_special=*/true);
  return source.ok() && tokenizer.ok();
}

bool open_safetensors(const std::string& path) {
  const auto store = files::open_safetensors(path);
  if (!store.ok()) return false;
  read_tensors(*store);
  return true;
}

using Open = bool (*)(const std::string& path);

// The shortest prefix that opens.
size_t shortest_accepted(std::string_view whole, Open open) {
  MemoryFile file;
  for (size_t size = 0; size <= whole.size(); ++size) {
    file.write(whole.substr(0, size));
    if (open(file.path())) return size;
  }
  return std::string_view::npos;
}

// What a byte is changed to. Under a sanitizer each opening takes several times as long.
std::vector<char> changes_of(char byte) {
  std::vector<char> out;
#ifdef __SANITIZE_ADDRESS__
  for (int bit = 0; bit < 8; ++bit) out.push_back(static_cast<char>(byte ^ (1 << bit)));
  out.insert(out.end(), {'\0', '\xff'});
#else
  for (int change = 1; change < 256; ++change) out.push_back(static_cast<char>(byte ^ change));
#endif
  return out;
}

struct Counts {
  int64_t accepted = 0;
  int64_t refused = 0;
};

// Opens `whole` with each of the bytes of its head, which end where its first tensor begins,
// changed.
Counts open_changed(std::string_view whole, Open open, int64_t head_bytes) {
  MemoryFile file;
  file.write(whole);
  Counts counts;
  for (size_t at = 0; at < static_cast<size_t>(head_bytes); ++at) {
    for (const char byte : changes_of(whole[at])) {
      file.write_byte(at, byte);
      ++(open(file.path()) ? counts.accepted : counts.refused);
    }
    file.write_byte(at, whole[at]);
  }
  return counts;
}

TEST(DamagedGguf, IsRefusedWhereverItIsCutOff) {
  EXPECT_EQ(shortest_accepted(small_gguf(), open_gguf), small_gguf().size());
}

TEST(DamagedGguf, IsReadOrRefusedWhateverByteIsChanged) {
  const std::string whole = small_gguf();
  const auto head = files::parse_gguf(std::as_bytes(std::span(whole)), "small").value();
  const Counts counts = open_changed(whole, open_gguf, head.entries[0].offset);
  EXPECT_GT(counts.accepted, 0);
  EXPECT_GT(counts.refused, 0);
}

TEST(DamagedSafetensors, IsRefusedWhereverItIsCutOff) {
  EXPECT_EQ(shortest_accepted(small_safetensors(), open_safetensors), small_safetensors().size());
}

TEST(DamagedSafetensors, IsReadOrRefusedWhateverByteIsChanged) {
  const std::string whole = small_safetensors();
  const auto head = files::parse_safetensors(std::as_bytes(std::span(whole)), "small").value();
  const Counts counts = open_changed(whole, open_safetensors, head[0].offset);
  EXPECT_GT(counts.accepted, 0);
  EXPECT_GT(counts.refused, 0);
}

}  // namespace
}  // namespace fourfold::fuzz
