#include "jinja/lexer.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "jinja/value.h"

namespace fourfold::jinja {
namespace {

using Kind = Token::Kind;

bool is_digit(char c) { return '0' <= c && c <= '9'; }
bool is_letter(char c) {
  // Names of other scripts: any byte that is not ASCII.
  return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

std::string with_plain_newlines(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      out += '\n';
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : owned_(with_plain_newlines(source)), source_(owned_) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) root();
    push(Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw TemplateError(fmt::format("line {}: {}", line_, what));
  }

  bool starts(std::string_view text) const { return source_.substr(at_).starts_with(text); }
  char peek(size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }
  void advance(size_t count) {
    for (size_t i = 0; i < count; ++i) line_ += source_[at_ + i] == '\n' ? 1 : 0;
    at_ += count;
  }
  void push(Kind kind, std::string text) {
    tokens_.push_back({.kind = kind, .text = std::move(text), .line = line_});
  }

  /// Text up to the next tag, and that tag.
  void root() {
    size_t begin = at_;
    while (begin < source_.size() && !(source_[begin] == '{' && begin + 1 < source_.size() &&
                                       (source_[begin + 1] == '{' || source_[begin + 1] == '%' ||
                                        source_[begin + 1] == '#'))) {
      ++begin;
    }
    std::string_view text = source_.substr(at_, begin - at_);
    if (begin == source_.size()) {
      if (!text.empty()) push(Kind::kText, std::string(text));
      at_ = begin;
      return;
    }
    const char kind = source_[begin + 1];
    const char sign = begin + 2 < source_.size() ? source_[begin + 2] : '\0';
    const size_t all = text.size();
    if (sign == '-') {
      text = strip(text, "", false, true);
    } else if (sign != '+' && kind != '{') {
      text = without_indent(text);
    }
    if (!text.empty()) push(Kind::kText, std::string(text));
    advance(all + 2 + (sign == '-' || sign == '+' ? 1 : 0));
    at_line_begin_ = false;
    if (kind == '#') return comment();
    if (kind == '%' && raw()) return;
    push(kind == '%' ? Kind::kBlockBegin : Kind::kVariableBegin, "");
    tag(kind);
  }

  /// Without the white space between the begin of its last line and the tag behind it.
  std::string_view without_indent(std::string_view text) const {
    const size_t newline = text.rfind('\n');
    const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
    if (begin == 0 && !at_line_begin_) return text;
    if (!strip(text.substr(begin), "", true, true).empty()) return text;
    return text.substr(0, begin);
  }

  /// After a tag's end: `trims`: a newline behind it goes.
  void end_tag(bool strips, bool trims) {
    if (strips) {
      const std::string_view rest = source_.substr(at_);
      const size_t gone = rest.size() - strip(rest, "", true, false).size();
      at_line_begin_ = gone > 0 && source_[at_ + gone - 1] == '\n';
      advance(gone);
    } else if (trims && peek() == '\n') {
      advance(1);
      at_line_begin_ = true;
    }
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string_view::npos) fail("a comment does not end: expected #}");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    advance(end + 2 - at_);
    end_tag(sign == '-', sign != '+');
  }

  /// {% raw %}: text as it is.
  bool raw() {
    size_t at = at_;
    const auto skip_spaces = [&] {
      while (at < source_.size() && is_space(source_.substr(at, 1))) ++at;
    };
    const auto take = [&](std::string_view word) {
      if (!source_.substr(at).starts_with(word)) return false;
      at += word.size();
      return true;
    };
    skip_spaces();
    if (!take("raw")) return false;
    skip_spaces();
    const bool strips = take("-");
    if (!take("%}")) return false;
    advance(at - at_);
    end_tag(strips, false);
    for (size_t end = at_;; end += 2) {
      end = source_.find("{%", end);
      if (end == std::string_view::npos) fail("a raw block does not end: expected {% endraw %}");
      at = end + 2;
      const char begin_sign = at < source_.size() ? source_[at] : '\0';
      if (begin_sign == '-' || begin_sign == '+') ++at;
      skip_spaces();
      if (!take("endraw")) continue;
      skip_spaces();
      const bool end_strips = take("-");
      const bool end_keeps = take("+");
      if (!take("%}")) continue;
      std::string_view text = source_.substr(at_, end - at_);
      if (begin_sign == '-') {
        text = strip(text, "", false, true);
      } else if (begin_sign != '+') {
        text = without_indent(text);
      }
      if (!text.empty()) push(Kind::kText, std::string(text));
      advance(at - at_);
      at_line_begin_ = false;
      end_tag(end_strips, !end_keeps);
      return true;
    }
  }

  /// What is between the begin and the end of a tag.
  void tag(char kind) {
    const std::string_view end = kind == '%' ? "%}" : "}}";
    const Kind end_kind = kind == '%' ? Kind::kBlockEnd : Kind::kVariableEnd;
    std::string open;
    while (true) {
      while (at_ < source_.size() && is_space(source_.substr(at_, 1))) advance(1);
      if (at_ == source_.size()) fail(fmt::format("a tag does not end: expected {}", end));
      const char sign = peek();
      if (open.empty()) {
        if ((sign == '-' || (sign == '+' && kind == '%')) &&
            source_.substr(at_ + 1).starts_with(end)) {
          push(end_kind, "");
          advance(3);
          return end_tag(sign == '-', false);
        }
        if (starts(end)) {
          push(end_kind, "");
          advance(2);
          return end_tag(false, kind == '%');
        }
      }
      if (is_digit(sign)) {
        number();
      } else if (is_letter(sign)) {
        size_t size = 1;
        while (is_letter(peek(size)) || is_digit(peek(size))) ++size;
        push(Kind::kName, std::string(source_.substr(at_, size)));
        advance(size);
      } else if (sign == '"' || sign == '\'') {
        string();
      } else {
        operation(open);
      }
    }
  }

  void operation(std::string& open) {
    constexpr std::array<std::string_view, 27> kOperators = {
        "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">",
        "=",  ".",  ",",  ":",  "|",  "(",  ")", "[", "]", "{", "}", ";", "!"};
    for (const std::string_view op : kOperators) {
      if (!starts(op)) continue;
      const char c = op[0];
      if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
      if (c == ')' || c == ']' || c == '}') {
        if (open.empty() || open.back() != c) fail(fmt::format("unexpected {}", c));
        open.pop_back();
      }
      push(Kind::kOperator, std::string(op));
      return advance(op.size());
    }
    fail(fmt::format("unexpected character {}", to_repr(std::string(1, peek()))));
  }

  void number() {
    size_t size = 0;
    const auto digits = [&] {
      while (is_digit(peek(size)) || (peek(size) == '_' && is_digit(peek(size + 1)))) ++size;
    };
    digits();
    bool is_float = false;
    if (peek(size) == '.' && is_digit(peek(size + 1))) {
      is_float = true;
      ++size;
      digits();
    }
    if (peek(size) == 'e' || peek(size) == 'E') {
      const size_t sign = peek(size + 1) == '+' || peek(size + 1) == '-' ? 1 : 0;
      if (is_digit(peek(size + 1 + sign))) {
        is_float = true;
        size += 1 + sign;
        digits();
      }
    }
    std::string text(source_.substr(at_, size));
    std::erase(text, '_');
    push(is_float ? Kind::kFloat : Kind::kInteger, text);
    Token& token = tokens_.back();
    const char* end = text.data() + text.size();
    const auto status = is_float ? std::from_chars(text.data(), end, token.number).ec
                                 : std::from_chars(text.data(), end, token.integer).ec;
    if (status != std::errc()) fail(fmt::format("the number {} is too large", text));
    advance(size);
  }

  void string() {
    const char quote = peek();
    const int line = line_;
    std::string out;
    size_t at = at_ + 1;
    while (true) {
      if (at >= source_.size()) fail("a string does not end");
      const char c = source_[at++];
      if (c == quote) break;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at >= source_.size()) fail("a string does not end");
      escape(at, out);
    }
    advance(at - at_);
    push(Kind::kString, std::move(out));
    tokens_.back().line = line;
  }

  /// Python's escapes, at the character behind the backslash.
  void escape(size_t& at, std::string& out) const {
    const char c = source_[at++];
    constexpr std::string_view kFrom = "ntrbfva\\'\"";
    constexpr std::string_view kTo = "\n\t\r\b\f\v\a\\'\"";
    if (const size_t found = kFrom.find(c); found != std::string_view::npos) {
      out += kTo[found];
      return;
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (c == '\n') return;
    if (is_digit(c)) fail("octal escapes are not supported: write \\x..");
    if (digits == 0) {
      out += '\\';
      out += c;
      return;
    }
    uint32_t point = 0;
    const std::string_view hex = source_.substr(at, digits);
    const auto [end, status] = std::from_chars(hex.data(), hex.data() + hex.size(), point, 16);
    if (status != std::errc() || end != hex.data() + digits || point > 0x10ffff ||
        (0xd800 <= point && point <= 0xdfff)) {
      fail(fmt::format("the escape \\{}{} is no character", c, hex));
    }
    at += digits;
    append_character(point, out);
  }

  std::string owned_;
  std::string_view source_;
  size_t at_ = 0;
  int line_ = 1;
  bool at_line_begin_ = true;  ///< the last tag ended with a newline
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace fourfold::jinja
