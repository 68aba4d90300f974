#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/ids.h"
#include "grammar/machine.h"
#include "text/token_constraint.h"
#include "text/tokenizer.h"

namespace fourfold::grammar {

/// The tokens of a model that stand for text, in the order of their bytes. Immutable.
class TokenTable {
 public:
  /// `vocab`: tokens of the model. `end_tokens`: what an output may end with. Special tokens are
  /// never part of a text.
  TokenTable(const text::Tokenizer& tokenizer, int64_t vocab,
             std::span<const engine::TokenId> end_tokens);

  /// The tokens that may come in a state: all whose bytes lead on from it, and end tokens if the
  /// text is complete. The machine's work is limited by the caller; where it is exhausted the mask
  /// is of no use.
  text::TokenMask allowed(Machine& machine, Machine::State state) const;

  /// Empty: the token stands for no text.
  std::string_view bytes(engine::TokenId token) const;
  bool is_end(engine::TokenId token) const;
  bool has_end() const { return !end_tokens_.empty(); }

 private:
  struct Entry {
    engine::TokenId token = 0;
    uint32_t begin = 0;  ///< in bytes_
    uint32_t length = 0;
    uint32_t shared = 0;  ///< bytes in front that the entry before has, too
  };
  std::string_view text(const Entry& entry) const {
    return std::string_view(bytes_).substr(entry.begin, entry.length);
  }

  std::string bytes_;
  std::vector<Entry> entries_;     ///< by text
  std::vector<int32_t> entry_of_;  ///< by token; -1: none
  std::vector<engine::TokenId> end_tokens_;
};

}  // namespace fourfold::grammar
