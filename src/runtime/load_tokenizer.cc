#include "runtime/load_tokenizer.h"

#include <filesystem>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "files/gguf.h"
#include "files/mapped_file.h"

namespace fourfold::runtime {
namespace {

namespace fs = std::filesystem;

std::string_view text_of(const files::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

base::Result<text::Tokenizer> from_folder(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder / "tokenizer.json", error)) {
    return base::fail(
        "{} has no tokenizer.json: save the tokenizer there with transformers' "
        "save_pretrained",
        folder.string());
  }
  FF_ASSIGN(const files::MappedFile tokenizer, files::MappedFile::open(folder / "tokenizer.json"));
  const fs::path config_path = folder / "tokenizer_config.json";
  if (!fs::exists(config_path, error)) return text::tokenizer_from_json(text_of(tokenizer), "");
  FF_ASSIGN(const files::MappedFile config, files::MappedFile::open(config_path));
  return text::tokenizer_from_json(text_of(tokenizer), text_of(config));
}

/// The id that `key` gives, -1 where it is absent.
base::Result<int32_t> token_id(const files::GgufMetadata& metadata, std::string_view key,
                               int64_t vocab) {
  if (!metadata.contains(key)) return -1;
  FF_ASSIGN(const int64_t id, metadata.get<int64_t>(key));
  if (id >= 0 && id < vocab) return static_cast<int32_t>(id);
  return base::fail("expected a token id of 0 to {} for \"{}\" in the GGUF file, found {}",
                    vocab - 1, key, id);
}

base::Result<text::Tokenizer> from_gguf(const fs::path& path) {
  FF_ASSIGN(const files::GgufFile file, files::open_gguf(path));
  const files::GgufMetadata& metadata = file.metadata;
  FF_ASSIGN(const std::string_view kind, metadata.get<std::string_view>("tokenizer.ggml.model"));
  if (kind != "llama") {
    return base::fail(
        "{}: GGUF vocabulary \"{}\" is not supported, only \"llama\" (SentencePiece) "
        "is: use the model's Hugging Face folder",
        path.string(), kind);
  }
  FF_ASSIGN(const auto pieces, metadata.get_array<std::string_view>("tokenizer.ggml.tokens"));
  FF_ASSIGN(const auto scores, metadata.get_array<double>("tokenizer.ggml.scores"));
  FF_ASSIGN(const auto types, metadata.get_array<int64_t>("tokenizer.ggml.token_type"));
  text::SentencePieceVocab vocab;
  vocab.pieces.assign(pieces.begin(), pieces.end());
  vocab.scores.assign(scores.begin(), scores.end());
  for (const int64_t type : types) {
    if (type < 0 || type > std::numeric_limits<int32_t>::max()) {
      return base::fail("{}: {} is not a type of token", path.string(), type);
    }
    vocab.types.push_back(static_cast<int32_t>(type));
  }
  const int64_t size = std::ssize(vocab.pieces);
  FF_ASSIGN(vocab.bos_id, token_id(metadata, "tokenizer.ggml.bos_token_id", size));
  FF_ASSIGN(vocab.eos_id, token_id(metadata, "tokenizer.ggml.eos_token_id", size));
  FF_ASSIGN(vocab.unk_id, token_id(metadata, "tokenizer.ggml.unknown_token_id", size));
  FF_ASSIGN(vocab.add_bos, metadata.get_or<bool>("tokenizer.ggml.add_bos_token", true));
  FF_ASSIGN(vocab.add_eos, metadata.get_or<bool>("tokenizer.ggml.add_eos_token", false));
  FF_ASSIGN(vocab.add_space_prefix, metadata.get_or<bool>("tokenizer.ggml.add_space_prefix", true));
  return text::tokenizer_from_sentencepiece(std::move(vocab));
}

}  // namespace

base::Result<text::Tokenizer> load_tokenizer(const model::ModelSource& source) {
  switch (source.kind) {
    case model::ModelSource::Kind::kFolder:
      return from_folder(source.path);
    case model::ModelSource::Kind::kGguf:
      return from_gguf(source.path);
    case model::ModelSource::Kind::kPreset:
      break;
  }
  return base::fail(
      "the preset {} has no tokenizer: it can be measured with verify, but text needs a "
      "model folder or a GGUF file",
      source.name);
}

}  // namespace fourfold::runtime
