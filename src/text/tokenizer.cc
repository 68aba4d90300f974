#include "text/tokenizer.h"

#include "text/detokenizer.h"
#include "text/normalizer.h"
#include "text/utf8.h"

namespace fourfold::text {

Tokenizer::Tokenizer(Vocabulary vocabulary, std::unique_ptr<const Encoder> encoder)
    : state_(std::make_shared<const State>(State{std::move(vocabulary), std::move(encoder)})) {}

base::Status Tokenizer::check_length(std::string_view text) {
  if (static_cast<int64_t>(text.size()) <= kMaxTextBytes) return {};
  return base::fail("a text of {} bytes cannot be tokenized; at most {} are supported", text.size(),
                    kMaxTextBytes);
}

base::Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text,
                                                     bool add_special) const {
  FF_TRY(check_length(text));
  const Vocabulary& vocabulary = state_->vocabulary;
  std::vector<int32_t> ids;
  if (add_special) ids = vocabulary.prefix;
  FF_TRY(state_->encoder->encode(valid_utf8(text), &ids));
  if (add_special) {
    ids.insert(ids.end(), vocabulary.suffix.begin(), vocabulary.suffix.end());
  }
  return ids;
}

base::Result<std::vector<int32_t>> Tokenizer::encode_marked(std::string_view text) const {
  FF_TRY(check_length(text));
  std::vector<int32_t> ids;
  FF_TRY(state_->encoder->encode_marked(valid_utf8(text), &ids));
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  IncrementalDetokenizer detokenizer(*this, {.skip_special = skip_special});
  std::string out;
  for (const int32_t id : ids) out += detokenizer.push(id);
  return out + detokenizer.flush();
}

}  // namespace fourfold::text
