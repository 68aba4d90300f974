#include "text/detokenizer.h"

#include "text/utf8.h"

namespace fourfold::text {

std::string IncrementalDetokenizer::push(int32_t id) {
  if (tokenizer_.token_piece(id).empty()) return {};
  if (options_.skip_special && tokenizer_.is_special(id)) return {};
  if (at_start_) {
    append_start(id);
  } else {
    pending_ += tokenizer_.token_bytes(id);
  }
  std::string out;
  const int64_t taken = append_valid_utf8(pending_, /*more_follows=*/true, &out);
  pending_.erase(0, static_cast<size_t>(taken));
  return out;
}

void IncrementalDetokenizer::append_start(int32_t id) {
  const TextStart& start = tokenizer_.text_start();
  std::string bytes(tokenizer_.token_bytes(id));
  if (first_ && !start.drop.empty()) {
    bytes = replace_all(tokenizer_.token_piece(id), start.drop, "");
  }
  first_ = false;
  while (stripped_ < start.strip_count && bytes.starts_with(start.strip)) {
    bytes.erase(0, start.strip.size());
    ++stripped_;
  }
  at_start_ = stripped_ < start.strip_count && bytes.empty();
  pending_ += bytes;
}

std::string IncrementalDetokenizer::flush() {
  std::string out = valid_utf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace fourfold::text
