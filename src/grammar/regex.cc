#include "grammar/regex.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "files/printable.h"
#include "text/utf8.h"

namespace fourfold::grammar {
namespace {

using base::fail;
using base::Result;

constexpr size_t kMaxPatternBytes = size_t{16} << 10;
constexpr int kMaxNesting = 64;
constexpr int kMaxRepeats = 10'000;
constexpr int kUnbounded = -1;

const CodePoints& digits() {
  static const CodePoints set = {{'0', '9'}};
  return set;
}
const CodePoints& word() {
  static const CodePoints set = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
  return set;
}
/// What is a space to Python and to ECMAScript.
const CodePoints& space() {
  static const CodePoints set = {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},
                                 {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
                                 {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
  return set;
}
/// What is one to neither.
const CodePoints& no_space() {
  static const CodePoints set =
      space().complement().without({{0x1C, 0x1F}, {0x85, 0x85}, {0xFEFF, 0xFEFF}});
  return set;
}
const CodePoints& dot() {
  static const CodePoints set =
      CodePoints{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}.complement();
  return set;
}

/// One part of an expression.
struct Part {
  enum class Kind { kSet, kSequence, kChoice, kRepeat };
  Kind kind = Kind::kSequence;
  CodePoints set;           ///< kSet
  std::vector<Part> parts;  ///< of all but kSet; of a kRepeat one
  int least = 0;            ///< kRepeat
  int most = 0;             ///< or kUnbounded
};

/// An outermost alternative.
struct Alternative {
  Part part;
  bool from_begin = false;  ///< ^
  bool to_end = false;      ///< $
};

class Parser {
 public:
  explicit Parser(std::string_view pattern) : pattern_(pattern) {}

  Result<std::vector<Alternative>> parse() {
    if (pattern_.size() > kMaxPatternBytes) {
      return fail("a regular expression of {} bytes, expected at most {}", pattern_.size(),
                  kMaxPatternBytes);
    }
    std::vector<Alternative> out;
    do {
      Alternative& alternative = out.emplace_back();
      while (take("^")) alternative.from_begin = true;
      FF_ASSIGN(alternative.part, sequence(0));
      while (take("$")) alternative.to_end = true;
      if (!at_end() && peek() != '|') return refuse(peek() == ')' ? "a ) without its (" : "a $");
    } while (take("|"));
    return out;
  }

 private:
  bool at_end() const { return at_ == pattern_.size(); }
  char peek() const { return pattern_[at_]; }
  bool take(std::string_view text) {
    if (!pattern_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  base::Error refuse(std::string_view what) const {
    return fail("the regular expression has {} at byte {}, which is not supported here", what, at_);
  }

  Result<Part> choice(int depth) {
    if (depth > kMaxNesting) return refuse("groups in more than 64 others");
    Part out{.kind = Part::Kind::kChoice, .set = {}, .parts = {}};
    do {
      FF_ASSIGN(Part part, sequence(depth));
      out.parts.push_back(std::move(part));
    } while (take("|"));
    if (!at_end() && peek() == '$') return refuse("a $");
    return out;
  }

  Result<Part> sequence(int depth) {
    Part out;
    while (!at_end() && peek() != '|' && peek() != ')' && peek() != '$') {
      FF_ASSIGN(Part part, atom(depth));
      FF_ASSIGN(part, repeated(std::move(part)));
      out.parts.push_back(std::move(part));
    }
    return out;
  }

  Result<Part> atom(int depth) {
    switch (peek()) {
      case '(':
        return group(depth);
      case '[':
        return class_of();
      case '.':
        ++at_;
        return of(dot());
      case '^':
        return refuse("a ^");
      case '*':
      case '+':
      case '?':
      case '{':
        return refuse(peek() == '{' ? "a { that is no quantifier (write \\{)"
                                    : "a quantifier without anything before it");
      default:
        break;
    }
    if (peek() == '\\') {
      FF_ASSIGN(CodePoints set, escape());
      return of(std::move(set));
    }
    const char32_t c = character();
    return of(CodePoints{{c, c}});
  }

  static Part of(CodePoints set) {
    return {.kind = Part::Kind::kSet, .set = std::move(set), .parts = {}};
  }

  char32_t character() {
    const text::Utf8Step step = text::utf8_step(pattern_.substr(at_));
    at_ += static_cast<size_t>(step.length);
    return step.code_point;
  }

  Result<Part> group(int depth) {
    if (!take("(?:")) {
      const bool named =
          (take("(?P<") || (!pattern_.substr(at_).starts_with("(?<=") &&
                            !pattern_.substr(at_).starts_with("(?<!") && take("(?<")));
      if (named) {
        while (!at_end() && peek() != '>') ++at_;
        if (!take(">")) return refuse("a group without the end of its name");
      } else if (pattern_.substr(at_).starts_with("(?")) {
        return refuse("a look-around or flag");
      } else {
        ++at_;
      }
    }
    FF_ASSIGN(Part part, choice(depth + 1));
    if (!take(")")) return refuse("a ( without its )");
    return part;
  }

  Result<int> hex(int count) {
    uint32_t value = 0;
    const char* const begin = pattern_.data() + at_;
    const char* const end =
        begin + std::min<size_t>(static_cast<size_t>(count), pattern_.size() - at_);
    const auto result = std::from_chars(begin, end, value, 16);
    if (result.ptr != begin + count) return refuse("a broken escape");
    if (value >= 0xD800 && value <= 0xDFFF) return refuse("a surrogate");
    at_ += static_cast<size_t>(count);
    return static_cast<int>(value);
  }

  Result<CodePoints> escape() {
    const size_t begin = at_;
    ++at_;
    if (at_end()) return refuse("a \\ at its end");
    const char c = peek();
    ++at_;
    const auto one = [](char32_t code_point) { return CodePoints{{code_point, code_point}}; };
    switch (c) {
      case 'd':
        return digits();
      case 'D':
        return digits().complement();
      case 'w':
        return word();
      case 'W':
        return word().complement();
      case 's':
        return space();
      case 'S':
        return no_space();
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 'x':
      case 'u': {
        FF_ASSIGN(const int code_point, hex(c == 'x' ? 2 : 4));
        return one(static_cast<char32_t>(code_point));
      }
      default:
        break;
    }
    const bool is_punctuation = c >= ' ' && c <= '~' && !(c >= '0' && c <= '9') &&
                                !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z');
    if (is_punctuation) return one(static_cast<char32_t>(c));
    at_ = begin;
    return refuse("the escape " + files::printable(pattern_.substr(begin, 2)));
  }

  Result<CodePoints> class_item(bool* is_one) {
    if (peek() == '\\') {
      const size_t begin = at_;
      FF_ASSIGN(CodePoints set, escape());
      const char c = pattern_[begin + 1];
      *is_one = std::string_view("dDwWsS").find(c) == std::string_view::npos;
      return set;
    }
    *is_one = true;
    const char32_t c = character();
    return CodePoints{{c, c}};
  }

  Result<Part> class_of() {
    const size_t begin = at_;
    ++at_;
    const bool negated = take("^");
    if (!at_end() && peek() == ']') return refuse("an empty class (write \\] for the bracket)");
    std::vector<CodePointRange> ranges;
    while (!at_end() && peek() != ']') {
      bool is_one = false;
      FF_ASSIGN(const CodePoints first, class_item(&is_one));
      const std::string_view rest = pattern_.substr(at_);
      if (rest.size() >= 2 && rest[0] == '-' && rest[1] != ']') {
        ++at_;
        bool last_is_one = false;
        FF_ASSIGN(const CodePoints last, class_item(&last_is_one));
        if (!is_one || !last_is_one || last.ranges()[0].low < first.ranges()[0].low) {
          return refuse("a range that is none");
        }
        ranges.push_back({first.ranges()[0].low, last.ranges()[0].low});
      } else {
        ranges.insert(ranges.end(), first.ranges().begin(), first.ranges().end());
      }
    }
    if (!take("]")) {
      at_ = begin;
      return refuse("a [ without its ]");
    }
    const CodePoints set(std::move(ranges));
    return of(negated ? set.complement() : set);
  }

  Result<int> count() {
    int value = 0;
    const char* const begin = pattern_.data() + at_;
    const auto result = std::from_chars(begin, pattern_.data() + pattern_.size(), value);
    if (result.ptr == begin) return refuse("a { that is no quantifier (write \\{)");
    if (result.ec != std::errc() || value < 0 || value > kMaxRepeats) {
      return refuse("a count above 10000");
    }
    at_ += static_cast<size_t>(result.ptr - begin);
    return value;
  }

  /// The part with the quantifier behind it, if there is one.
  Result<Part> repeated(Part part) {
    int least = 0;
    int most = kUnbounded;
    if (take("+")) {
      least = 1;
    } else if (take("?")) {
      most = 1;
    } else if (take("{")) {
      FF_ASSIGN(least, count());
      most = least;
      if (take(",")) {
        most = kUnbounded;
        if (!at_end() && peek() != '}') {
          FF_ASSIGN(most, count());
        }
      }
      if (!take("}") || (most != kUnbounded && most < least)) return refuse("a broken {m,n}");
    } else if (!take("*")) {
      return part;
    }
    take("?");
    if (!at_end() && (peek() == '*' || peek() == '+' || peek() == '?' || peek() == '{')) {
      return refuse("a quantifier behind another");
    }
    Part out{.kind = Part::Kind::kRepeat, .set = {}, .parts = {}, .least = least, .most = most};
    out.parts.push_back(std::move(part));
    return out;
  }

  std::string_view pattern_;
  size_t at_ = 0;
};

class Emitter {
 public:
  Emitter(GraphBuilder& builder, Spelling spelling) : builder_(builder), spelling_(spelling) {}

  void add(Node from, const Part& part, Node to) {
    if (builder_.full()) return;
    switch (part.kind) {
      case Part::Kind::kSet:
        return add_characters(builder_, from, part.set, spelling_, to);
      case Part::Kind::kSequence:
        for (const Part& next : part.parts) from = step(from, next);
        return builder_.add_empty(from, to);
      case Part::Kind::kChoice:
        for (const Part& next : part.parts) add(from, next, to);
        return;
      case Part::Kind::kRepeat:
        return add_repeat(from, part, to);
    }
  }

  /// Any text.
  Node add_any(Node from) {
    const Node loop = builder_.add_node();
    builder_.add_empty(from, loop);
    add_characters(builder_, loop, CodePoints::all(), spelling_, loop);
    return loop;
  }

 private:
  Node step(Node from, const Part& part) {
    const Node next = builder_.add_node();
    add(from, part, next);
    return next;
  }

  void add_repeat(Node from, const Part& part, Node to) {
    const Part& body = part.parts[0];
    for (int i = 0; i < part.least && !builder_.full(); ++i) from = step(from, body);
    if (part.most == kUnbounded) {
      const Node loop = builder_.add_node();
      builder_.add_empty(from, loop);
      add(loop, body, loop);
      return builder_.add_empty(loop, to);
    }
    for (int i = part.least; i < part.most && !builder_.full(); ++i) {
      builder_.add_empty(from, to);
      from = step(from, body);
    }
    builder_.add_empty(from, to);
  }

  GraphBuilder& builder_;
  Spelling spelling_;
};

}  // namespace

base::Status add_regex(GraphBuilder& builder, Node from, std::string_view pattern, Match match,
                       Spelling spelling, Node to) {
  FF_ASSIGN(const std::vector<Alternative> alternatives, Parser(pattern).parse());
  Emitter emitter(builder, spelling);
  for (const Alternative& alternative : alternatives) {
    Node begin = builder.add_node();
    builder.add_empty(from, begin);
    const bool inside = match == Match::kInside;
    if (inside && !alternative.from_begin) begin = emitter.add_any(begin);
    const Node end = builder.add_node();
    emitter.add(begin, alternative.part, end);
    builder.add_empty(inside && !alternative.to_end ? emitter.add_any(end) : end, to);
  }
  return {};
}

}  // namespace fourfold::grammar
