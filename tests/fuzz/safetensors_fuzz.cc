#include "files/safetensors.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/read_tensors.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  const auto entries = files::parse_safetensors(std::as_bytes(std::span(input)), "fuzz");
  if (!entries.ok()) return;
  static MemoryFile file;
  file.write(input);
  const auto store = files::open_safetensors(file.path());
  if (!store.ok()) return;  // A name that stands twice.
  CHECK(store->entries().size() == entries->size(), "{} and {} tensors", store->entries().size(),
        entries->size());
  read_tensors(*store);
}

}  // namespace fourfold::fuzz
