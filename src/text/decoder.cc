#include "text/decoder.h"

#include "files/printable.h"
#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace fourfold::text {

using base::fail;
using base::Result;
using base::Status;
using files::printable;

// Decoders write a space for a mark; a token's text is hardly longer than its piece.
constexpr size_t kMaxReplacementBytes = 64;
constexpr size_t kMaxGrowth = 4;

Result<PieceDecoder> PieceDecoder::create(const JsonNode& json) {
  PieceDecoder decoder;
  FF_TRY(decoder.add_steps(json));
  FF_TRY(check_step_count(json, std::ssize(decoder.steps_)));
  return decoder;
}

Status PieceDecoder::add_steps(const JsonNode& json) {
  FF_ASSIGN(const std::string type, json.string_at("type"));
  if (type == "Sequence") {
    FF_ASSIGN(const JsonNode list, json.at("decoders"));
    FF_ASSIGN(const std::vector<JsonNode> nodes, list.elements());
    for (const JsonNode& node : nodes) FF_TRY(add_steps(node));
    return {};
  }
  if (type == "Fuse") {
    joined_ = true;
    return {};
  }
  if (type == "Strip") return add_strip(json);
  // A byte is not text yet, and joined text is no single piece.
  const bool pieces_are_text = !joined_ && (steps_.empty() || steps_.back().index() >= 2);
  if (!pieces_are_text &&
      (type == "Replace" || type == "ByteLevel" || type == "ByteFallback" || type == "Metaspace")) {
    return fail("{} is {} behind a decoder that joins tokens; this order is not supported",
                json.path(), printable(type));
  }
  if (type == "ByteLevel") {
    steps_.push_back(ByteLetters{});
  } else if (type == "ByteFallback") {
    steps_.push_back(ByteFallback{});
  } else if (type == "Replace") {
    FF_ASSIGN(const JsonNode pattern, json.at("pattern"));
    FF_ASSIGN(std::string from, pattern.string_at("String"));
    if (from.empty()) return fail("{} is empty", pattern.path());
    FF_ASSIGN(std::string to, json.string_at("content"));
    if (to.size() > kMaxReplacementBytes) {
      return fail("{}.content has {} bytes; at most {} are supported", json.path(), to.size(),
                  kMaxReplacementBytes);
    }
    steps_.push_back(Replace{std::move(from), std::move(to)});
  } else if (type == "Metaspace") {
    FF_ASSIGN(std::string replacement, json.string_at("replacement"));
    if (replacement.empty()) return fail("{}.replacement is empty", json.path());
    FF_ASSIGN(const bool add_prefix_space, json.boolean_at("add_prefix_space", true));
    std::string scheme = add_prefix_space ? "always" : "never";
    if (json.has("prepend_scheme")) {
      FF_ASSIGN(scheme, json.string_at("prepend_scheme"));
    }
    if (scheme != "never") text_start_.drop = replacement;
    steps_.push_back(Replace{std::move(replacement), " "});
  } else {
    return fail(
        "{} has the type '{}'; supported are Sequence, ByteLevel, Metaspace, Replace, "
        "ByteFallback, Fuse, Strip",
        json.path(), printable(type));
  }
  return {};
}

Status PieceDecoder::add_strip(const JsonNode& json) {
  Strip step;
  FF_ASSIGN(step.character, json.string_at("content"));
  FF_ASSIGN(step.left, json.integer_at("start", 0, INT32_MAX));
  FF_ASSIGN(step.right, json.integer_at("stop", 0, INT32_MAX));
  if (step.character.empty()) return fail("{}.content is empty", json.path());
  if (!joined_) {
    if (!steps_.empty() && steps_.back().index() < 2) {
      return fail("{} strips bytes before a Fuse joins them; this order is not supported",
                  json.path());
    }
    steps_.push_back(std::move(step));
    return {};
  }
  if (step.right != 0) {
    return fail("{}.stop is {}; stripping the end of a text is not supported", json.path(),
                step.right);
  }
  if (text_start_.strip_count > 0) {
    return fail("{} strips the start of the text a second time; this is not supported",
                json.path());
  }
  text_start_.strip = std::move(step.character);
  text_start_.strip_count = step.left;
  return {};
}

std::string PieceDecoder::strip(const Strip& step, std::string piece) {
  for (int64_t i = 0; i < step.left && piece.starts_with(step.character); ++i) {
    piece.erase(0, step.character.size());
  }
  for (int64_t i = 0; i < step.right && piece.ends_with(step.character); ++i) {
    piece.erase(piece.size() - step.character.size());
  }
  return piece;
}

Result<std::string> PieceDecoder::bytes(std::string_view piece) const {
  std::string out(piece);
  for (const Step& step : steps_) {
    if (std::holds_alternative<ByteLetters>(step)) {
      // Added tokens may have characters outside the alphabet; they stand for themselves.
      if (const auto bytes = bytes_of_letters(out)) out = *bytes;
    } else if (std::holds_alternative<ByteFallback>(step)) {
      if (const auto byte = byte_of_piece(out)) out = *byte;
    } else if (const auto* replace = std::get_if<Replace>(&step)) {
      out = replace_all(out, replace->from, replace->to);
    } else {
      out = strip(std::get<Strip>(step), std::move(out));
    }
    if (out.size() > kMaxReplacementBytes + kMaxGrowth * piece.size()) {
      return fail("the decoder makes a text of {} bytes of the token '{}'", out.size(),
                  printable(piece));
    }
  }
  return out;
}

}  // namespace fourfold::text
