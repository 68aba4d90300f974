#include "grammar/characters.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "text/utf8.h"

namespace fourfold::grammar {
namespace {

constexpr char32_t kFirstSurrogate = 0xD800;
constexpr char32_t kLastSurrogate = 0xDFFF;
constexpr char32_t kLast = 0x10FFFF;

/// What JSON's strings have behind a backslash for a control character.
std::string json_escape(char32_t control) {
  switch (control) {
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return fmt::format("\\u{:04x}", static_cast<uint32_t>(control));
  }
}

std::string utf8(char32_t code_point) {
  std::string out;
  text::append_code_point(code_point, &out);
  return out;
}

}  // namespace

void CodePoints::normalise() {
  std::vector<CodePointRange> cut;
  for (const CodePointRange& range : ranges_) {
    const char32_t before = std::min<char32_t>(range.high, kFirstSurrogate - 1);
    const char32_t behind = std::max<char32_t>(range.low, kLastSurrogate + 1);
    if (range.low <= before) cut.push_back({range.low, before});
    if (behind <= range.high) cut.push_back({behind, range.high});
  }
  std::sort(cut.begin(), cut.end(),
            [](const CodePointRange& a, const CodePointRange& b) { return a.low < b.low; });
  ranges_.clear();
  for (const CodePointRange& range : cut) {
    if (!ranges_.empty() && range.low <= ranges_.back().high + 1) {
      ranges_.back().high = std::max(ranges_.back().high, range.high);
    } else {
      ranges_.push_back(range);
    }
  }
}

CodePoints CodePoints::complement() const {
  CodePoints out;
  char32_t next = 0;
  for (const CodePointRange& range : ranges_) {
    if (range.low > next) out.ranges_.push_back({next, range.low - 1});
    next = range.high + 1;
  }
  if (next <= kLast) out.ranges_.push_back({next, kLast});
  out.normalise();
  return out;
}

CodePoints CodePoints::without(const CodePoints& other) const {
  std::vector<CodePointRange> outside = complement().ranges_;
  outside.insert(outside.end(), other.ranges_.begin(), other.ranges_.end());
  return CodePoints(std::move(outside)).complement();
}

Node TextsBetween::any_rest(size_t bytes) {
  while (rests_.size() <= bytes) {
    const Node node = builder_.add_node();
    builder_.add_bytes(node, least_, most_, rests_.back());
    rests_.push_back(node);
  }
  return rests_[bytes];
}

void TextsBetween::add(Node from, std::string_view low, std::string_view high) {
  auto first = static_cast<uint8_t>(low[0]);
  auto last = static_cast<uint8_t>(high[0]);
  const size_t rest = low.size() - 1;
  const std::string least(rest, static_cast<char>(least_));
  const std::string most(rest, static_cast<char>(most_));
  const bool from_least = low.substr(1) == least;
  const bool to_most = high.substr(1) == most;
  if (first == last && !(from_least && to_most)) {
    const Node next = builder_.add_node();
    builder_.add_bytes(from, first, first, next);
    return add(next, low.substr(1), high.substr(1));
  }
  if (!from_least) {
    const Node next = builder_.add_node();
    builder_.add_bytes(from, first, first, next);
    add(next, low.substr(1), most);
    ++first;
  }
  if (!to_most) {
    const Node next = builder_.add_node();
    builder_.add_bytes(from, last, last, next);
    add(next, least, high.substr(1));
    --last;
  }
  if (first <= last) builder_.add_bytes(from, first, last, any_rest(rest));
}

void add_characters(GraphBuilder& builder, Node from, const CodePoints& set, Spelling spelling,
                    Node to) {
  CodePoints plain = set;
  if (spelling == Spelling::kJsonString) {
    const CodePoints escaped = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
    plain = set.without(escaped);
    const CodePoints to_escape = set.common_with(escaped);
    for (const CodePointRange& range : to_escape.ranges()) {
      for (char32_t c = range.low; c <= range.high; ++c) {
        builder.add_text(from,
                         c < 0x20 ? json_escape(c) : fmt::format("\\{}", static_cast<char>(c)), to);
      }
    }
  }
  TextsBetween between(builder, to, 0x80, 0xBF);
  constexpr char32_t kLastOfLength[] = {0x7F, 0x7FF, 0xFFFF, kLast};
  for (const CodePointRange& range : plain.ranges()) {
    char32_t low = range.low;
    for (const char32_t last : kLastOfLength) {
      const char32_t high = std::min(range.high, last);
      if (low > high) continue;
      between.add(from, utf8(low), utf8(high));
      low = high + 1;
    }
  }
}

void add_texts(GraphBuilder& builder, Node from, std::span<const std::string> texts, Node to) {
  std::map<std::pair<Node, char>, Node> next;
  // Texts are not to lead on into what else begins at `from`.
  const Node root = builder.add_node();
  builder.add_empty(from, root);
  for (const std::string& text : texts) {
    Node node = root;
    for (const char c : text) {
      if (builder.full()) return;
      const auto [found, is_new] = next.try_emplace({node, c}, 0);
      if (is_new) {
        found->second = builder.add_node();
        builder.add_bytes(node, static_cast<uint8_t>(c), static_cast<uint8_t>(c), found->second);
      }
      node = found->second;
    }
    builder.add_empty(node, to);
  }
}

}  // namespace fourfold::grammar
