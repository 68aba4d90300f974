// A GGUF file through the doors that a user's file takes: its head, the model that it describes,
// all its tensors and its vocabulary.
#include "files/gguf.h"
#include "model/source.h"
#include "runtime/load_tokenizer.h"
#include "tests/fuzz/check_spec.h"
#include "tests/fuzz/check_tokenizer.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/read_tensors.h"

namespace fourfold::fuzz {

void check_input(std::string_view input) {
  static MemoryFile file;
  file.write(input);
  const auto gguf = files::open_gguf(file.path());
  if (!gguf.ok()) return;
  read_tensors(gguf->tensors);
  const auto source = model::open_model(file.path(), /*dummy=*/false, /*dummy_seed=*/0);
  if (source.ok()) check_spec(source->spec);
  const model::ModelSource tokenizer_source{.name = "fuzz",
                                            .kind = model::ModelSource::Kind::kGguf,
                                            .path = file.path(),
                                            .spec = {},
                                            .tensors = nullptr};
  const auto tokenizer = runtime::load_tokenizer(tokenizer_source);
  if (tokenizer.ok()) check_tokenizer(*tokenizer, " Hello  w\xc3\xb6rld\n\xff<s>ab");
}

}  // namespace fourfold::fuzz
