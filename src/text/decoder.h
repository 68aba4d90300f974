#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "text/json.h"
#include "text/vocabulary.h"

namespace fourfold::text {

/// The "decoder" of tokenizer.json, as far as it treats each token alone: what bytes a piece stands
/// for, and what happens at the start of a text.
class PieceDecoder {
 public:
  /// ByteLevel, Metaspace, and Sequence of Replace, ByteFallback, Fuse and Strip. Others, and
  /// orders of these that need to see more than one token at a time, are an error.
  static base::Result<PieceDecoder> create(const JsonNode& json);

  /// An error if a Replace makes much more of the piece.
  base::Result<std::string> bytes(std::string_view piece) const;
  const TextStart& text_start() const { return text_start_; }

 private:
  struct ByteLetters {};
  struct ByteFallback {};
  struct Replace {
    std::string from;
    std::string to;
  };
  struct Strip {
    std::string character;
    int64_t left;
    int64_t right;
  };
  using Step = std::variant<ByteLetters, ByteFallback, Replace, Strip>;

  base::Status add_steps(const JsonNode& json);
  base::Status add_strip(const JsonNode& json);
  static std::string strip(const Strip& step, std::string piece);

  std::vector<Step> steps_;
  bool joined_ = false;  ///< A Fuse has come: what follows sees the whole text.
  TextStart text_start_;
};

}  // namespace fourfold::text
