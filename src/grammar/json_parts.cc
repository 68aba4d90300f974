#include "grammar/json_parts.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "grammar/characters.h"
#include "grammar/regex.h"
#include "text/utf8.h"

namespace fourfold::grammar {
namespace {

constexpr int kIndentation = 20;

void add_fixed(GraphBuilder& builder, Node from, std::string_view pattern, Node to) {
  const base::Status status =
      add_regex(builder, from, pattern, Match::kWhole, Spelling::kPlain, to);
  CHECK(status.ok(), "{}", status.error().message);
}

uint64_t magnitude(int64_t value) { return static_cast<uint64_t>(value < 0 ? -value : value); }

}  // namespace

Rule JsonParts::space() {
  if (space_) return *space_;
  space_ = builder_.add_rule();
  const Node end = builder_.end_of(*space_);
  builder_.add_empty(builder_.start_of(*space_), end);
  builder_.add_text(builder_.start_of(*space_), " ", end);
  Node indented = builder_.add_node();
  builder_.add_bytes(builder_.start_of(*space_), '\n', '\n', indented);
  for (int i = 0; i < kIndentation; ++i) {
    builder_.add_empty(indented, end);
    const Node next = builder_.add_node();
    builder_.add_bytes(indented, ' ', ' ', next);
    builder_.add_bytes(indented, '\t', '\t', next);
    indented = next;
  }
  builder_.add_empty(indented, end);
  return *space_;
}

Rule JsonParts::character() {
  if (character_) return *character_;
  character_ = builder_.add_rule();
  const Node from = builder_.start_of(*character_);
  const Node to = builder_.end_of(*character_);
  const CodePoints escaped = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
  add_characters(builder_, from, escaped.complement(), Spelling::kPlain, to);
  // A code point that is no surrogate, or a pair of them.
  add_fixed(builder_, from,
            R"(\\(["\\/bfnrt]|u([0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}|)"
            R"([dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})))",
            to);
  return *character_;
}

void JsonParts::add_string(Node from, int64_t least, std::optional<int64_t> most, Node to) {
  Node at = builder_.add_node();
  builder_.add_bytes(from, '"', '"', at);
  const Node end = builder_.add_node();
  builder_.add_bytes(end, '"', '"', to);
  const auto step = [&] {
    const Node next = builder_.add_node();
    builder_.add_call(at, character(), next);
    at = next;
  };
  for (int64_t i = 0; i < least && !builder_.full(); ++i) step();
  if (!most) {
    const Node loop = builder_.add_node();
    builder_.add_empty(at, loop);
    builder_.add_call(loop, character(), loop);
    return builder_.add_empty(loop, end);
  }
  for (int64_t i = least; i < *most && !builder_.full(); ++i) {
    builder_.add_empty(at, end);
    step();
  }
  builder_.add_empty(at, end);
}

/// Numbers with as many digits as both bounds have.
void JsonParts::add_digits_between(Node from, uint64_t least, uint64_t most, Node to) {
  TextsBetween(builder_, to, '0', '9').add(from, std::to_string(least), std::to_string(most));
}

void JsonParts::add_magnitude(Node from, uint64_t least, std::optional<uint64_t> most, Node to) {
  if (most && *most < least) return;
  while (true) {
    const std::string digits = std::to_string(least);
    const uint64_t last = std::stoull(std::string(digits.size(), '9'));
    if (most && *most <= last) return add_digits_between(from, least, *most, to);
    add_digits_between(from, least, last, to);
    if (!most) {
      const std::string longer = "[1-9][0-9]{" + std::to_string(digits.size()) + ",}";
      return add_fixed(builder_, from, longer, to);
    }
    least = last + 1;
  }
}

void JsonParts::add_integer(Node from, const NumberRange& range, Node to) {
  if (!range.bounded()) return add_fixed(builder_, from, "-?(0|[1-9][0-9]*)", to);
  std::optional<int64_t> least = range.least;
  std::optional<int64_t> most = range.most;
  if (least && range.above_least) ++*least;
  if (most && range.below_most) --*most;
  if (!most || *most >= 0) {
    const uint64_t low = least && *least > 0 ? magnitude(*least) : 0;
    std::optional<uint64_t> high;
    if (most) high = magnitude(*most);
    add_magnitude(from, low, high, to);
  }
  if (!least || *least < 0) {
    const Node negative = builder_.add_node();
    builder_.add_bytes(from, '-', '-', negative);
    const uint64_t low = most && *most < 0 ? magnitude(*most) : 1;
    std::optional<uint64_t> high;
    if (least) high = magnitude(*least);
    add_magnitude(negative, low, high, to);
  }
}

/// What stands behind the digits before a point. `zero`: no fraction, or one that is 0; `positive`:
/// others.
void JsonParts::add_fraction(Node from, bool zero, bool positive, Node to) {
  if (zero) add_fixed(builder_, from, R"((\.0+)?)", to);
  if (positive) add_fixed(builder_, from, R"(\.0*[1-9][0-9]*)", to);
}

/// Numbers that are not negative. `above`, `below`: without the bound itself.
void JsonParts::add_decimal(Node from, uint64_t least, bool above, std::optional<uint64_t> most,
                            bool below, Node to) {
  if (most && *most < least) return;
  const auto exactly = [&](uint64_t whole, bool zero, bool positive) {
    const Node point = builder_.add_node();
    add_digits_between(from, whole, whole, point);
    add_fraction(point, zero, positive, to);
  };
  if (most && *most == least) return exactly(least, !above && !below, false);
  exactly(least, !above, true);
  if (most) exactly(*most, !below, false);
  std::optional<uint64_t> last;
  if (most) last = *most - 1;
  const Node point = builder_.add_node();
  add_magnitude(from, least + 1, last, point);
  add_fraction(point, true, true, to);
}

void JsonParts::add_number(Node from, const NumberRange& range, Node to) {
  if (!range.bounded()) {
    return add_fixed(builder_, from, R"(-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?)", to);
  }
  if (!range.most || *range.most >= 0) {
    const bool low = range.least && *range.least >= 0;
    std::optional<uint64_t> high;
    if (range.most) high = magnitude(*range.most);
    add_decimal(from, low ? magnitude(*range.least) : 0, low && range.above_least, high,
                range.below_most, to);
  }
  if (!range.least || *range.least < 0) {
    const Node negative = builder_.add_node();
    builder_.add_bytes(from, '-', '-', negative);
    const bool low = range.most && *range.most < 0;
    std::optional<uint64_t> high;
    if (range.least) high = magnitude(*range.least);
    // -0 is 0, which the positive ones have, or which is out of the range.
    add_decimal(negative, low ? magnitude(*range.most) : 0, low ? range.below_most : true, high,
                range.above_least, to);
  }
}

Node JsonParts::open(Node from, char bracket) {
  const Node opened = builder_.add_node();
  const auto byte = static_cast<uint8_t>(bracket);
  builder_.add_bytes(from, byte, byte, opened);
  const Node next = builder_.add_node();
  builder_.add_call(opened, space(), next);
  return next;
}

void JsonParts::close(Node from, char bracket, Node to) {
  const Node spaced = builder_.add_node();
  builder_.add_call(from, space(), spaced);
  const auto byte = static_cast<uint8_t>(bracket);
  builder_.add_bytes(spaced, byte, byte, to);
}

Node JsonParts::comma(Node from) { return open(from, ','); }

Node JsonParts::add_members(Node first, Node later, std::span<const std::string> known,
                            Rule value) {
  const Rule member = builder_.add_rule();
  const Node named = builder_.add_node();
  add_name(builder_.start_of(member), known, named);
  builder_.add_call(open(named, ':'), value, builder_.end_of(member));
  const Node end = builder_.add_node();
  builder_.add_call(first, member, end);
  builder_.add_empty(later, end);
  builder_.add_call(comma(end), member, end);
  return end;
}

/// A name that is none of `known`. It has no escapes, so that it cannot be one of them in disguise.
void JsonParts::add_name(Node from, std::span<const std::string> known, Node to) {
  const CodePoints escaped = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
  const CodePoints plain = escaped.complement();
  const Node rest = builder_.add_node();  // it differs from all
  add_characters(builder_, rest, plain, Spelling::kPlain, rest);
  builder_.add_bytes(rest, '"', '"', to);

  struct Prefix {
    std::map<char32_t, size_t> next;
    bool is_name = false;
  };
  std::vector<Prefix> prefixes(1);
  for (const std::string& name : known) {
    size_t at = 0;
    for (std::string_view left = name; !left.empty();) {
      const text::Utf8Step step = text::utf8_step(left);
      left.remove_prefix(static_cast<size_t>(step.length));
      const auto [found, is_new] = prefixes[at].next.try_emplace(step.code_point, prefixes.size());
      at = found->second;
      if (is_new) prefixes.emplace_back();
    }
    prefixes[at].is_name = true;
  }
  std::vector<Node> nodes(prefixes.size());
  for (Node& node : nodes) node = builder_.add_node();
  builder_.add_bytes(from, '"', '"', nodes[0]);
  for (size_t i = 0; i < prefixes.size() && !builder_.full(); ++i) {
    std::vector<CodePointRange> taken;
    for (const auto& [code_point, next] : prefixes[i].next) {
      taken.push_back({code_point, code_point});
      const CodePoints one = {{code_point, code_point}};
      add_characters(builder_, nodes[i], one.common_with(plain), Spelling::kPlain, nodes[next]);
    }
    add_characters(builder_, nodes[i], plain.without(CodePoints(std::move(taken))),
                   Spelling::kPlain, rest);
    if (!prefixes[i].is_name) builder_.add_bytes(nodes[i], '"', '"', to);
  }
}

Rule JsonParts::any_object() {
  if (object_) return *object_;
  object_ = builder_.add_rule();
  const Node from = builder_.start_of(*object_);
  const Node to = builder_.end_of(*object_);
  const Node first = open(from, '{');
  builder_.add_bytes(first, '}', '}', to);
  close(add_members(first, builder_.add_node(), {}, any_value()), '}', to);
  return *object_;
}

Rule JsonParts::any_value() {
  if (value_) return *value_;
  value_ = builder_.add_rule();
  const Node from = builder_.start_of(*value_);
  const Node to = builder_.end_of(*value_);
  for (const std::string_view word : {"true", "false", "null"}) builder_.add_text(from, word, to);
  add_number(from, {}, to);
  add_string(from, 0, std::nullopt, to);
  builder_.add_call(from, any_object(), to);
  const Node first = open(from, '[');
  builder_.add_bytes(first, ']', ']', to);
  const Node item = builder_.add_node();
  builder_.add_call(first, *value_, item);
  builder_.add_call(comma(item), *value_, item);
  close(item, ']', to);
  return *value_;
}

}  // namespace fourfold::grammar
