#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/ids.h"

namespace fourfold::route {

/// What a request will cost, as far as its body tells. The router has no tokenizer: four bytes of a
/// text stand for a token.
struct Estimate {
  std::string model;                    ///< "": it names none
  std::vector<engine::TokenId> prompt;  ///< its token ids, or its texts, four bytes each
  int64_t prompt_tokens = 0;            ///< those, and what was not looked at
  int64_t output_tokens = 0;            ///< of all its choices at most
};

/// Never refuses anything: what the router does not understand the replica will. Only the first
/// kReadBytes are looked at.
Estimate estimate_request(std::string_view path, std::string_view body);

inline constexpr size_t kReadBytes = size_t{1} << 20;
/// Output tokens of a request that names no limit: OpenAI's default of completions, and what chats
/// may take.
inline constexpr int64_t kCompletionTokens = 16;
inline constexpr int64_t kChatTokens = 256;

}  // namespace fourfold::route
