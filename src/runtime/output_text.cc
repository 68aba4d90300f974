#include "runtime/output_text.h"

#include <utility>

#include "text/utf8.h"

namespace fourfold::runtime {

base::Result<OutputText> OutputText::create(const text::Tokenizer& tokenizer,
                                            const Options& options) {
  FF_ASSIGN(text::StopChecker stops,
            text::StopChecker::create(options.stops, options.include_stop));
  return OutputText(tokenizer, options, std::move(stops));
}

OutputText::OutputText(const text::Tokenizer& tokenizer, const Options& options,
                       text::StopChecker stops)
    : detokenizer_(tokenizer, {.skip_special = options.skip_special, .continues_text = true}),
      stops_(std::move(stops)),
      min_tokens_(options.min_tokens),
      include_stop_(options.include_stop) {}

OutputText::Piece OutputText::push(const engine::SequenceEvent& event) {
  Piece piece;
  if (ended_) return piece;
  const auto check = [&](const std::string& text) {
    text::StopChecker::Output out = stops_.push(text);
    piece.text += out.text;
    piece.stopped = piece.stopped || out.stop.has_value();
  };
  if (event.token) {
    ++tokens_;
    const bool is_stop_token = event.finish == engine::FinishReason::kStop;
    if (!is_stop_token || include_stop_) {
      const std::string text = detokenizer_.push(event.token->token);
      piece.characters = text::characters(text);
      if (tokens_ > min_tokens_) {
        check(text);
      } else {
        piece.text += text;
      }
    }
  }
  if (event.finish && !piece.stopped) {
    check(detokenizer_.flush());
    if (!piece.stopped) piece.text += stops_.flush();
  }
  ended_ = piece.stopped || event.finish.has_value();
  return piece;
}

}  // namespace fourfold::runtime
