#include "text/added_tokens.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

#include "files/printable.h"
#include "text/utf8.h"
#include "text/vocabulary.h"

namespace fourfold::text {
namespace {

using base::fail;
using base::Result;
using base::Status;

// Unicode's White_Space.
bool is_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string_view first_character(std::string_view text) {
  return text.empty() ? text : text.substr(0, static_cast<size_t>(utf8_step(text).length));
}

std::string_view last_character(std::string_view text) {
  size_t at = text.size();
  while (at > 0 && (static_cast<uint8_t>(text[--at]) & 0xC0) == 0x80) {
  }
  return text.substr(at);
}

bool is_space(std::string_view character) {
  return !character.empty() && is_space(utf8_step(character).code_point);
}

Result<AddedToken> read_token(const JsonNode& json, int64_t id) {
  AddedToken token;
  token.id = static_cast<int32_t>(id);
  FF_ASSIGN(token.content, json.string_at("content"));
  FF_ASSIGN(token.special, json.boolean_at("special", false));
  FF_ASSIGN(token.normalized, json.boolean_at("normalized", !token.special));
  FF_ASSIGN(token.single_word, json.boolean_at("single_word", false));
  FF_ASSIGN(token.lstrip, json.boolean_at("lstrip", false));
  FF_ASSIGN(token.rstrip, json.boolean_at("rstrip", false));
  return token;
}

}  // namespace

Result<std::vector<AddedToken>> read_added_tokens(const JsonNode& tokenizer,
                                                  const JsonNode& config) {
  std::vector<AddedToken> tokens;
  std::set<std::string, std::less<>> contents;
  const auto add = [&](AddedToken token) {
    if (token.content.empty() || !contents.insert(token.content).second) return;
    tokens.push_back(std::move(token));
  };
  if (tokenizer.has("added_tokens")) {
    FF_ASSIGN(const JsonNode list, tokenizer.at("added_tokens"));
    FF_ASSIGN(const std::vector<JsonNode> nodes, list.elements());
    for (const JsonNode& node : nodes) {
      FF_ASSIGN(const int64_t id, node.integer_at("id", 0, Vocabulary::kMaxIds - 1));
      FF_ASSIGN(AddedToken token, read_token(node, id));
      add(std::move(token));
    }
  }
  if (config.has("added_tokens_decoder")) {
    FF_ASSIGN(const JsonNode map, config.at("added_tokens_decoder"));
    if (!map.value().is_object()) return fail("{} is not an object", map.path());
    for (const auto& [key, value] : map.value().items()) {
      const JsonNode node(value, fmt::format("{}.{}", map.path(), files::printable(key)));
      int64_t id = -1;
      const char* end = key.data() + key.size();
      const auto [parsed, error] = std::from_chars(key.data(), end, id);
      if (parsed != end || error != std::errc() || id < 0 || id >= Vocabulary::kMaxIds) {
        return fail("{} is not named by a token id", node.path());
      }
      FF_ASSIGN(AddedToken token, read_token(node, id));
      add(std::move(token));
    }
  }
  return tokens;
}

Result<AddedTokens> AddedTokens::create(const std::vector<AddedToken>& tokens,
                                        const Normalizer& normalizer) {
  FF_ASSIGN(Regex word, Regex::compile(kRustWordClass));
  AddedTokens out(std::move(word));
  int64_t bytes = 0;
  for (const AddedToken& token : tokens) bytes += std::ssize(token.content);
  const SearchBudget budget(bytes);
  // Where two tokens look alike after normalization, a special one has precedence.
  for (const bool special : {true, false}) {
    for (const AddedToken& token : tokens) {
      if (token.special != special) continue;
      std::string content = token.content;
      if (token.normalized) FF_TRY(normalizer.apply(budget, &content));
      if (!content.empty()) {
        FF_TRY((token.normalized ? out.normalized_ : out.raw_).add(content, token.id));
      }
      out.tokens_.emplace(token.id, token);
    }
  }
  return out;
}

Result<bool> AddedTokens::is_word(std::string_view character) const {
  std::vector<Span> matches;
  FF_TRY(word_.find_all(character, SearchBudget(std::ssize(character)), &matches));
  return !matches.empty();
}

Result<std::vector<AddedTokens::Section>> AddedTokens::cut(const PrefixMatcher& matcher,
                                                           std::string_view text) const {
  std::vector<Section> out;
  const auto part = [&](size_t begin, size_t end) { return text.substr(begin, end - begin); };
  size_t done = 0;         // Sections cover the text up to here.
  size_t space_begin = 0;  // All white space from here ...
  size_t space_end = 0;    // ... to here, what the last token with rstrip took along.
  for (size_t at = 0; at < text.size();) {
    const PrefixMatcher::Match match = matcher.longest(text.substr(at));
    if (match.length == 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_.at(match.id);
    size_t begin = at;
    size_t end = at + static_cast<size_t>(match.length);
    at = end;
    if (token.single_word) {
      FF_ASSIGN(const bool word_before, is_word(last_character(part(0, begin))));
      FF_ASSIGN(const bool word_behind, is_word(first_character(text.substr(end))));
      if (word_before || word_behind) continue;
    }
    if (token.lstrip) {
      // The token before may have taken the space already.
      for (std::string_view c; begin > done && is_space(c = last_character(part(done, begin)));) {
        begin -= c.size();
      }
      begin = std::max(begin, done);
    }
    if (token.rstrip) {
      // Tokens in the space that one took along take it again; it is not walked over again.
      if (space_begin <= end && end < space_end) {
        end = space_end;
      } else {
        space_begin = end;
        for (std::string_view c; is_space(c = first_character(text.substr(end)));) end += c.size();
        space_end = end;
      }
    }
    if (done < begin) out.push_back({part(done, begin)});
    out.push_back({part(begin, end), token.id});
    done = end;
  }
  if (done < text.size()) out.push_back({text.substr(done)});
  return out;
}

}  // namespace fourfold::text
