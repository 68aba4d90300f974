#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/request.h"
#include "text/detokenizer.h"
#include "text/stop_strings.h"
#include "text/tokenizer.h"

namespace fourfold::runtime {

/// The text of one sequence as its events come: detokenised, and ended before a stop string. As in
/// vLLM, stop strings are looked for behind the first min_tokens tokens, and the stop token that
/// ends an output is no part of its text.
class OutputText {
 public:
  struct Options {
    std::vector<std::string> stops;
    bool include_stop = false;  ///< a stop string, or stop token, is part of the text
    int32_t min_tokens = 0;
    bool skip_special = true;  ///< special tokens have no text
  };
  struct Piece {
    std::string text;      ///< what the event has made certain
    bool stopped = false;  ///< by a stop string: the output has ended, whatever the engine samples
    int64_t characters = 0;  ///< that the event's token has completed, held back or not
  };

  /// Errors: an empty stop string.
  static base::Result<OutputText> create(const text::Tokenizer& tokenizer, const Options& options);

  /// Takes the sequence's next event in. After the end nothing comes any more.
  Piece push(const engine::SequenceEvent& event);

  /// A stop string was found, or the sequence has ended.
  bool ended() const { return ended_; }
  int64_t tokens() const { return tokens_; }

 private:
  OutputText(const text::Tokenizer& tokenizer, const Options& options, text::StopChecker stops);

  text::IncrementalDetokenizer detokenizer_;
  text::StopChecker stops_;
  int32_t min_tokens_;
  bool include_stop_;
  int64_t tokens_ = 0;
  bool ended_ = false;
};

}  // namespace fourfold::runtime
