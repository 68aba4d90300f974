#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace fourfold::text {

/// Turns a stream of token ids into text, piece by piece. What `push` and `flush` return, joined,
/// is what `Tokenizer::decode` gives for all ids at once.
class IncrementalDetokenizer {
 public:
  struct Options {
    bool skip_special = true;
    /// The ids go on a text, as an answer goes on its prompt, so that the rules for the start of a
    /// text do not apply: a leading space stays.
    bool continues_text = false;
  };

  IncrementalDetokenizer(Tokenizer tokenizer, Options options)
      : tokenizer_(std::move(tokenizer)), options_(options), at_start_(!options.continues_text) {}

  /// The text that is certain with this id: whole characters only. Bytes that cannot be part of a
  /// character become U+FFFD; up to three that still can are held back.
  std::string push(int32_t id);

  /// Ends the stream: what is held back, as one U+FFFD, or nothing.
  std::string flush();

 private:
  void append_start(int32_t id);

  Tokenizer tokenizer_;
  Options options_;
  bool at_start_;         ///< No token has been taken yet, or text is still to be stripped.
  int64_t stripped_ = 0;  ///< Characters already stripped from the start.
  bool first_ = true;     ///< No token has been taken yet.
  std::string pending_;   ///< Bytes not yet returned.
};

}  // namespace fourfold::text
