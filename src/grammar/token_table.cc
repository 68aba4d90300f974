#include "grammar/token_table.h"

#include <algorithm>

#include "base/sizes.h"

namespace fourfold::grammar {

using engine::TokenId;
using text::TokenMask;

TokenTable::TokenTable(const text::Tokenizer& tokenizer, int64_t vocab,
                       std::span<const TokenId> end_tokens)
    : entry_of_(static_cast<size_t>(vocab), -1) {
  for (const TokenId token : end_tokens) {
    if (token >= 0 && token < vocab) end_tokens_.push_back(token);
  }
  const int64_t tokens = std::min(vocab, tokenizer.vocab_size());
  for (int64_t i = 0; i < tokens; ++i) {
    const auto token = static_cast<TokenId>(i);
    const std::string_view bytes = tokenizer.token_bytes(token);
    if (bytes.empty() || tokenizer.is_special(token) || is_end(token)) continue;
    entries_.push_back({.token = token,
                        .begin = static_cast<uint32_t>(bytes_.size()),
                        .length = static_cast<uint32_t>(bytes.size())});
    bytes_ += bytes;
  }
  std::sort(entries_.begin(), entries_.end(), [this](const Entry& a, const Entry& b) {
    const int order = text(a).compare(text(b));
    return order != 0 ? order < 0 : a.token < b.token;
  });
  std::string_view before;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const std::string_view now = text(entries_[i]);
    const auto end = std::mismatch(before.begin(), before.end(), now.begin(), now.end()).first;
    entries_[i].shared = static_cast<uint32_t>(end - before.begin());
    entry_of_[static_cast<size_t>(entries_[i].token)] = static_cast<int32_t>(i);
    before = now;
  }
}

std::string_view TokenTable::bytes(TokenId token) const {
  if (token < 0 || std::cmp_greater_equal(token, entry_of_.size())) return {};
  const int32_t entry = entry_of_[static_cast<size_t>(token)];
  return entry < 0 ? std::string_view() : text(entries_[static_cast<size_t>(entry)]);
}

bool TokenTable::is_end(TokenId token) const {
  return std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end();
}

TokenMask TokenTable::allowed(Machine& machine, Machine::State state) const {
  TokenMask mask(
      static_cast<size_t>(base::ceil_div(std::ssize(entry_of_), int64_t{text::kTokenMaskBits})));
  const auto allow = [&](TokenId token) {
    mask[static_cast<size_t>(token) / text::kTokenMaskBits] |=
        1U << (static_cast<size_t>(token) % text::kTokenMaskBits);
  };
  if (machine.complete(state)) {
    for (const TokenId token : end_tokens_) allow(token);
  }
  // path[i]: the state behind the first i bytes of the latest entry that was followed; all of them
  // are alive. An entry that shares more bytes with the one before than could be followed there
  // cannot be followed either.
  std::vector<Machine::State> path = {state};
  for (const Entry& entry : entries_) {
    if (entry.shared >= path.size()) continue;
    path.resize(entry.shared + size_t{1});
    const std::string_view bytes = text(entry);
    while (path.size() <= bytes.size()) {
      const auto byte = static_cast<uint8_t>(bytes[path.size() - 1]);
      const Machine::State next = machine.next(path.back(), byte);
      if (next == Machine::kDead) break;
      path.push_back(next);
    }
    if (machine.exhausted()) break;
    if (path.size() > bytes.size()) allow(entry.token);
  }
  return mask;
}

}  // namespace fourfold::grammar
