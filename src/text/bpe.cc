#include "text/bpe.h"

#include <array>

#include "files/printable.h"
#include "text/byte_alphabet.h"
#include "text/utf8.h"
#include "text/vocabulary.h"

namespace fourfold::text {

using base::fail;
using base::Result;
using base::Status;
using files::printable;

size_t Bpe::PairHash::operator()(uint64_t pair) const {
  pair *= 0x9E3779B97F4A7C15;
  return pair ^ pair >> 32;
}

Result<Bpe> Bpe::create(const JsonNode& json) {
  // Old files do not name the type; only BPE has merges.
  if (json.has("type") || !json.has("merges")) {
    FF_ASSIGN(const std::string type, json.string_at("type"));
    if (type != "BPE")
      return fail("{} has the type '{}'; supported is BPE", json.path(), printable(type));
  }
  Bpe bpe;
  FF_TRY(bpe.read_vocabulary(json));
  FF_TRY(bpe.read_options(json));
  FF_TRY(bpe.read_merges(json));
  return bpe;
}

Status Bpe::read_vocabulary(const JsonNode& json) {
  FF_ASSIGN(const JsonNode vocab, json.at("vocab"));
  if (!vocab.value().is_object()) return fail("{} is not an object", vocab.path());
  pieces_.reserve(vocab.value().size());
  ids_.reserve(static_cast<int64_t>(vocab.value().size()));
  for (const auto& [piece, id] : vocab.value().items()) {
    const JsonNode node(id, vocab.path());
    FF_ASSIGN(const int64_t value, node.integer(0, Vocabulary::kMaxIds - 1));
    pieces_.emplace_back(piece, static_cast<int32_t>(value));
    ids_.add(piece, static_cast<int32_t>(value));
  }
  return {};
}

Status Bpe::read_options(const JsonNode& json) {
  if (json.has("dropout")) {
    FF_ASSIGN(const JsonNode dropout, json.at("dropout"));
    if (!dropout.value().is_number() || dropout.value().get<double>() != 0.0) {
      return fail("{} is {}; encoding at random is not supported", dropout.path(),
                  dropout.value().dump());
    }
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!json.has(key)) continue;
    FF_ASSIGN(const std::string affix, json.string_at(key));
    if (!affix.empty())
      return fail("{}.{} is '{}'; it is not supported", json.path(), key, printable(affix));
  }
  if (json.has("unk_token")) {
    FF_ASSIGN(const std::string unknown, json.string_at("unk_token"));
    unknown_ = find(unknown);
    if (!unknown_)
      return fail("{}.unk_token '{}' is not in the vocabulary", json.path(), printable(unknown));
  }
  FF_ASSIGN(fuse_unknown_, json.boolean_at("fuse_unk", false));
  FF_ASSIGN(byte_fallback_, json.boolean_at("byte_fallback", false));
  FF_ASSIGN(ignore_merges_, json.boolean_at("ignore_merges", false));
  return {};
}

Status Bpe::read_merges(const JsonNode& json) {
  FF_ASSIGN(const JsonNode node, json.at("merges"));
  const Json& merges = node.value();
  if (!merges.is_array()) return fail("{} is not an array", node.path());
  merges_.reserve(merges.size());
  int32_t rank = 0;
  for (const Json& merge : merges) {
    std::string left;
    std::string right;
    if (merge.is_string()) {  // "a b"
      const auto& both = merge.get_ref<const std::string&>();
      const size_t space = both.find(' ');
      if (space != std::string::npos && both.find(' ', space + 1) == std::string::npos) {
        left = both.substr(0, space);
        right = both.substr(space + 1);
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    }
    if (left.empty() || right.empty()) {
      return fail("{}[{}] is not a pair of pieces", node.path(), rank);
    }
    const auto left_id = find(left);
    const auto right_id = find(right);
    const auto merged_id = find(left + right);
    if (!left_id || !right_id || !merged_id) {
      return fail("{}[{}] merges '{}' and '{}', but {} is not in the vocabulary", node.path(), rank,
                  left, right,
                  !left_id    ? "the first"
                  : !right_id ? "the second"
                              : "the whole");
    }
    merges_.insert_or_assign(pair_of(*left_id, *right_id), Merge{rank, *merged_id});
    ++rank;
  }
  return {};
}

// Adds a symbol for each byte of `character`, if the vocabulary has them all.
bool Bpe::add_bytes(std::string_view character, int32_t begin, MergeScratch* scratch) const {
  std::array<int32_t, 4> ids;
  for (size_t i = 0; i < character.size(); ++i) {
    const auto id = find(piece_of_byte(character[i]));
    if (!id) return false;
    ids[i] = *id;
  }
  for (size_t i = 0; i < character.size(); ++i) {
    scratch->add_symbol(ids[i], begin + static_cast<int32_t>(i), 1);
  }
  return true;
}

void Bpe::encode(std::string_view word, MergeScratch* scratch, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const auto id = find(word)) {
      ids->push_back(*id);
      return;
    }
  }
  scratch->symbols.clear();
  // A run of unknown characters waits until a known one ends it. Byte tokens do not end it, so that
  // the unknown token then comes behind them: the reference does so too.
  int32_t unknown_length = 0;
  const auto flush_unknown = [&](int32_t end) {
    if (unknown_length > 0) {
      scratch->add_symbol(*unknown_, end - unknown_length, unknown_length);
    }
    unknown_length = 0;
  };
  const auto size = static_cast<int32_t>(word.size());
  for (int32_t at = 0; at < size;) {
    const int length = utf8_step(word.substr(static_cast<size_t>(at))).length;
    const auto character = word.substr(static_cast<size_t>(at), static_cast<size_t>(length));
    if (const auto id = find(character)) {
      flush_unknown(at);
      scratch->add_symbol(*id, at, length);
    } else if (!(byte_fallback_ && add_bytes(character, at, scratch)) && unknown_) {
      if (!fuse_unknown_) flush_unknown(at);
      unknown_length += length;
    }
    at += length;
  }
  flush_unknown(size);
  merge_symbols(scratch, [&](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
    const auto it = merges_.find(pair_of(left.id, right.id));
    if (it == merges_.end()) return std::nullopt;
    return it->second;
  });
  for (const Symbol& symbol : scratch->symbols) {
    if (symbol.length > 0) ids->push_back(symbol.id);
  }
}

}  // namespace fourfold::text
