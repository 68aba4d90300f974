#include <exception>
#include <memory>

#include "base/check.h"
#include "files/json.h"
#include "files/printable.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/json.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace fourfold::text {
namespace {

using base::fail;
using base::Result;
using base::Status;
using files::printable;

// Added tokens first, on the text as it is; then normalizer, normalized added tokens, words,
// merges.
class JsonEncoder final : public Encoder {
 public:
  JsonEncoder(Normalizer normalizer, PreTokenizer pre_tokenizer, Bpe bpe, AddedTokens added_tokens)
      : normalizer_(std::move(normalizer)),
        pre_tokenizer_(std::move(pre_tokenizer)),
        bpe_(std::move(bpe)),
        added_tokens_(std::move(added_tokens)) {}

  Status encode_marked(std::string_view text, std::vector<int32_t>* ids) const override {
    return encode(text, ids);  // which always finds them
  }

  Status encode(std::string_view text, std::vector<int32_t>* ids) const override {
    MergeScratch scratch;
    const SearchBudget budget(std::ssize(text));
    FF_ASSIGN(const std::vector<AddedTokens::Section> sections, added_tokens_.cut_raw(text));
    for (const AddedTokens::Section& section : sections) {
      if (section.id >= 0) {
        ids->push_back(section.id);
        continue;
      }
      std::string normalized(section.text);
      FF_TRY(normalizer_.apply(budget, &normalized));
      const bool first = section.text.data() == text.data();
      FF_ASSIGN(const std::vector<AddedTokens::Section> parts,
                added_tokens_.cut_normalized(normalized));
      for (const AddedTokens::Section& part : parts) {
        if (part.id >= 0) {
          ids->push_back(part.id);
          continue;
        }
        const bool at_text_start = first && part.text.data() == normalized.data();
        FF_TRY(encode_plain(part.text, at_text_start, budget, &scratch, ids));
      }
    }
    return {};
  }

 private:
  Status encode_plain(std::string_view text, bool at_text_start, const SearchBudget& budget,
                      MergeScratch* scratch, std::vector<int32_t>* ids) const {
    Words words{std::string(text), {{0, static_cast<int64_t>(text.size()), at_text_start}}};
    FF_TRY(pre_tokenizer_.apply(budget, &words));
    for (const Words::Range& range : words.ranges) bpe_.encode(words.at(range), scratch, ids);
    return {};
  }

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  AddedTokens added_tokens_;
};

constexpr size_t kMaxTemplateIds = 1024;

// The ids that a TemplateProcessing puts around a single text.
Status add_template(const JsonNode& json, Vocabulary* vocabulary) {
  FF_ASSIGN(const JsonNode single, json.at("single"));
  FF_ASSIGN(const std::vector<JsonNode> items, single.elements());
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  int sequences = 0;
  for (const JsonNode& item : items) {
    if (item.has("Sequence")) {
      ++sequences;
      continue;
    }
    FF_ASSIGN(const JsonNode token, item.at("SpecialToken"));
    FF_ASSIGN(const std::string name, token.string_at("id"));
    FF_ASSIGN(const JsonNode special_tokens, json.at("special_tokens"));
    FF_ASSIGN(const JsonNode special_token, special_tokens.at(name.c_str()));
    FF_ASSIGN(const JsonNode list, special_token.at("ids"));
    FF_ASSIGN(const std::vector<JsonNode> ids, list.elements());
    for (const JsonNode& node : ids) {
      FF_ASSIGN(const int64_t value, node.integer(0, Vocabulary::kMaxIds - 1));
      const auto id = static_cast<int32_t>(value);
      if (!vocabulary->has(id)) return fail("{} is {}, which is no token's id", node.path(), id);
      (sequences == 0 ? before : after).push_back(id);
    }
    // A token may stand there often, and each time for a long list.
    if (before.size() + after.size() > kMaxTemplateIds) {
      return fail("{} puts more than {} tokens around a text", single.path(), kMaxTemplateIds);
    }
  }
  if (sequences != 1) {
    return fail("{} has {} texts among its items, expected one", single.path(), sequences);
  }
  vocabulary->prefix.insert(vocabulary->prefix.begin(), before.begin(), before.end());
  vocabulary->suffix.insert(vocabulary->suffix.end(), after.begin(), after.end());
  return {};
}

Status add_post_processor(const JsonNode& json, Vocabulary* vocabulary) {
  FF_ASSIGN(const std::string type, json.string_at("type"));
  if (type == "Sequence") {
    FF_ASSIGN(const JsonNode list, json.at("processors"));
    FF_ASSIGN(const std::vector<JsonNode> nodes, list.elements());
    for (const JsonNode& node : nodes) FF_TRY(add_post_processor(node, vocabulary));
    return {};
  }
  if (type == "TemplateProcessing") return add_template(json, vocabulary);
  if (type == "ByteLevel") return {};  // Trims offsets, which are not given out here.
  return fail("{} has the type '{}'; supported are Sequence, TemplateProcessing, ByteLevel",
              json.path(), printable(type));
}

// "bos_token": "<s>" or {"content": "<s>", ...}.
Result<std::optional<int32_t>> named_token(const JsonNode& config, const char* key,
                                           const Vocabulary& vocabulary) {
  if (!config.has(key)) return std::optional<int32_t>();
  FF_ASSIGN(const JsonNode node, config.at(key));
  FF_ASSIGN(const std::string piece,
            node.value().is_object() ? node.string_at("content") : config.string_at(key));
  const std::optional<int32_t> id = vocabulary.find(piece);
  if (!id) return fail("{} is '{}', which is not in the vocabulary", node.path(), printable(piece));
  return id;
}

Result<Vocabulary> make_vocabulary(const Bpe& bpe, const std::vector<AddedToken>& added,
                                   const Normalizer& normalizer, const PieceDecoder& decoder) {
  Vocabulary vocabulary(std::ssize(added) + std::ssize(bpe.pieces()));
  int64_t added_bytes = 0;
  for (const AddedToken& token : added) added_bytes += std::ssize(token.content);
  const SearchBudget budget(added_bytes);
  for (const AddedToken& token : added) {
    const std::optional<int32_t> known = bpe.find(token.content);
    if (known && *known != token.id) {
      return fail("the added token '{}' has the id {}, but the vocabulary has it as {}",
                  printable(token.content), token.id, *known);
    }
    // What the decoder undoes is what the normalizer did.
    std::string content = token.content;
    if (token.normalized) FF_TRY(normalizer.apply(budget, &content));
    FF_ASSIGN(std::string bytes, decoder.bytes(content));
    FF_TRY(vocabulary.add(token.id, token.content, std::move(bytes), token.special));
  }
  for (const auto& [piece, id] : bpe.pieces()) {
    if (vocabulary.find(piece)) continue;  // Added above.
    FF_ASSIGN(std::string bytes, decoder.bytes(piece));
    FF_TRY(vocabulary.add(id, piece, std::move(bytes), /*special=*/false));
  }
  vocabulary.text_start = decoder.text_start();
  return vocabulary;
}

Result<Tokenizer> load(std::string_view tokenizer_json, std::string_view tokenizer_config_json) {
  FF_ASSIGN(const Json document, files::parse_json(tokenizer_json, "tokenizer.json"));
  const JsonNode root(document, "tokenizer.json");
  Json config_document = Json::object();
  if (!tokenizer_config_json.empty()) {
    FF_ASSIGN(config_document, files::parse_json(tokenizer_config_json, "tokenizer_config.json"));
  }
  const JsonNode config(config_document, "tokenizer_config.json");

  Normalizer normalizer;
  if (root.has("normalizer")) {
    FF_ASSIGN(const JsonNode node, root.at("normalizer"));
    FF_ASSIGN(normalizer, Normalizer::create(node));
  }
  PreTokenizer pre_tokenizer;
  if (root.has("pre_tokenizer")) {
    FF_ASSIGN(const JsonNode node, root.at("pre_tokenizer"));
    FF_ASSIGN(pre_tokenizer, PreTokenizer::create(node));
  }
  FF_ASSIGN(const JsonNode decoder_node, root.at("decoder"));
  FF_ASSIGN(const PieceDecoder decoder, PieceDecoder::create(decoder_node));
  FF_ASSIGN(const JsonNode model, root.at("model"));
  FF_ASSIGN(Bpe bpe, Bpe::create(model));
  FF_ASSIGN(const std::vector<AddedToken> added, read_added_tokens(root, config));
  FF_ASSIGN(Vocabulary vocabulary, make_vocabulary(bpe, added, normalizer, decoder));
  if (root.has("post_processor")) {
    FF_ASSIGN(const JsonNode node, root.at("post_processor"));
    FF_TRY(add_post_processor(node, &vocabulary));
  }
  FF_ASSIGN(vocabulary.bos, named_token(config, "bos_token", vocabulary));
  FF_ASSIGN(vocabulary.eos, named_token(config, "eos_token", vocabulary));
  FF_ASSIGN(AddedTokens added_tokens, AddedTokens::create(added, normalizer));
  auto encoder = std::make_unique<JsonEncoder>(std::move(normalizer), std::move(pre_tokenizer),
                                               std::move(bpe), std::move(added_tokens));
  return Tokenizer(std::move(vocabulary), std::move(encoder));
}

}  // namespace

Result<Tokenizer> tokenizer_from_json(std::string_view tokenizer_json,
                                      std::string_view tokenizer_config_json) {
  try {
    return load(tokenizer_json, tokenizer_config_json);
  } catch (const std::exception& error) {  // Out of memory, or the JSON library's complaint.
    return fail("tokenizer.json cannot be loaded: {}", error.what());
  }
}

}  // namespace fourfold::text
