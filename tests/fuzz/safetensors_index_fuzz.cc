// The index of a sharded checkpoint beside two sound shards and a folder in the way.
#include <filesystem>

#include "files/safetensors.h"
#include "files/scratch_folder.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/read_tensors.h"

namespace fourfold::fuzz {
namespace {

namespace fs = std::filesystem;

// A shard of one tensor of two numbers.
std::string shard(std::string_view tensor) {
  const std::string header =
      fmt::format(R"({{"{}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}})", tensor);
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + "12345678";
}

struct Folder {
  Folder() {
    scratch.write("1.safetensors", shard("a"));
    scratch.write("2.safetensors", shard("b"));
    fs::create_directory(scratch.path() / "folder");
    fs::create_symlink(index.path(), scratch.path() / "model.safetensors.index.json");
  }
  files::ScratchFolder scratch;
  MemoryFile index;
};

}  // namespace

void check_input(std::string_view input) {
  static Folder folder;
  folder.index.write(input);
  const auto store = files::open_safetensors_folder(folder.scratch.path());
  if (!store.ok()) return;
  for (const files::MappedFile& file : store->files()) {
    CHECK(fs::path(file.path()).parent_path() == folder.scratch.path(), "{} lies outside",
          file.path());
  }
  read_tensors(*store);
}

}  // namespace fourfold::fuzz
