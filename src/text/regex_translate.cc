// Oniguruma, with which the Hugging Face tokenizers run their patterns, and PCRE2 read some syntax
// differently without a complaint: \s, \h, \v, \w, \p{Han}, {n}+, nested classes. The translator
// therefore copies only what it knows to mean the same and refuses the rest.
#include <algorithm>
#include <array>
#include <cctype>

#include "files/printable.h"
#include "text/regex.h"
#include "text/unicode_tables.h"

namespace fourfold::text {
namespace {

using base::fail;
using base::Result;
using base::Status;

// Scripts whose members, with `unicode_additions`, were compared over all code points.
constexpr std::array<std::string_view, 22> kScripts = {
    "Arabic", "Armenian", "Bengali", "Bopomofo", "Cyrillic", "Devanagari", "Ethiopic", "Georgian",
    "Greek",  "Han",      "Hangul",  "Hebrew",   "Hiragana", "Inherited",  "Katakana", "Khmer",
    "Lao",    "Latin",    "Tamil",   "Telugu",   "Thai",     "Tibetan"};

// General categories; C, Cn and Cs shrink from one version of Unicode to the next.
bool is_category(std::string_view name) {
  constexpr std::string_view kNames =
      " L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp "
      "Cc Cf Co ";
  return name.find(' ') == std::string_view::npos &&
         kNames.find(fmt::format(" {} ", name)) != std::string_view::npos;
}

// The additions to a script or a category, as the inside of a class; "L" has those of "Lu" too.
std::string additions(std::string_view name) {
  std::string out;
  for (const UnicodeRange& range : unicode_additions()) {
    if (range.property == name ||
        (name.size() == 1 && range.property.size() == 2 && range.property.starts_with(name))) {
      out += fmt::format("\\x{{{:X}}}-\\x{{{:X}}}", range.first, range.last);
    }
  }
  return out;
}

std::string category_class(std::string_view name) {
  return fmt::format("\\p{{{}}}{}", name, additions(name));
}

// Oniguruma's \w, as the inside of a class. Of the numbers that are not digits it has just those of
// Latin-1.
std::string word_class() {
  return R"(\p{Alphabetic}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})" + additions("L") + category_class("M") +
         category_class("Nd") + category_class("Pc");
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      Status status;
      if (c == '\\') {
        status = escape(/*in_class=*/false);
      } else if (c == '[') {
        status = character_class();
      } else if (c == '(') {
        status = group();
      } else if (c == '{') {
        status = interval();
      } else {
        copy(1);
      }
      FF_TRY(status);
    }
    return out_;
  }

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }
  bool starts_with(std::string_view what) const { return in_.substr(at_).starts_with(what); }

  void copy(size_t length) {
    out_.append(in_.substr(at_, length));
    at_ += length;
  }

  void emit(std::string_view what, size_t length) {
    out_.append(what);
    at_ += length;
  }

  // A set of characters that stands for `length` bytes of the pattern.
  Status emit_class(std::string_view inside, bool negated, bool in_class, size_t length) {
    if (in_class && negated) {
      return unsupported(fmt::format("{} inside a class", in_.substr(at_, length)));
    }
    emit(in_class ? std::string(inside) : fmt::format("[{}{}]", negated ? "^" : "", inside),
         length);
    return {};
  }

  base::Error unsupported(std::string_view what) const {
    return fail("the regular expression '{}' uses {} at byte {}, which is not supported",
                files::printable(in_), files::printable(what), at_);
  }

  Status escape(bool in_class) {
    const char c = peek(1);
    switch (c) {
      case 's':  // PCRE2's own \s also matches U+180E.
        emit(R"(\p{White_Space})", 2);
        return {};
      case 'S':
        emit(R"(\P{White_Space})", 2);
        return {};
      case 'w':
      case 'W':
        return emit_class(word_class(), c == 'W', in_class, 2);
      case 'd':
      case 'D':
        return emit_class(category_class("Nd"), c == 'D', in_class, 2);
      case 'v':  // In PCRE2 any vertical white space.
        emit(R"(\x0b)", 2);
        return {};
      case 'A':
      case 'z':
        if (in_class) return unsupported(in_.substr(at_, 2));
        copy(2);
        return {};
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        copy(2);
        return {};
      case 'p':
      case 'P':
        return property(in_class);
      case 'x':
      case 'u':
        return code_point();
      default:
        if (c == '\0') return unsupported("a backslash at its end");
        if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
          return unsupported(in_.substr(at_, 2));
        }
        copy(2);
        return {};
    }
  }

  Status property(bool in_class) {
    const size_t close = in_.find('}', at_);
    if (peek(2) != '{' || close == std::string_view::npos) return unsupported("\\p without {name}");
    const std::string_view whole = in_.substr(at_, close + 1 - at_);
    std::string_view name = whole.substr(3, whole.size() - 4);
    bool negated = peek(1) == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    std::string inside;
    if (is_category(name)) {
      inside = category_class(name);
    } else if (std::ranges::find(kScripts, name) != kScripts.end()) {
      // A script's plain name means script extensions in PCRE2.
      inside = fmt::format("\\p{{sc:{}}}{}", name, additions(name));
    } else {
      return unsupported(whole);
    }
    return emit_class(inside, negated, in_class, whole.size());
  }

  // \x{1F600}, \x41 (in Oniguruma a byte, so only ASCII is a character) and \u00e9.
  Status code_point() {
    const auto hex_digits = [&](size_t from) {
      size_t count = 0;
      while (std::isxdigit(static_cast<unsigned char>(peek(from + count))) != 0) ++count;
      return count;
    };
    if (peek(1) == 'u') {
      if (hex_digits(2) < 4) return unsupported("\\u without four digits");
      emit(fmt::format("\\x{{{}}}", in_.substr(at_ + 2, 4)), 6);
      return {};
    }
    if (peek(2) == '{') {
      const size_t digits = hex_digits(3);
      if (digits < 1 || digits > 8 || peek(3 + digits) != '}') return unsupported("\\x{...}");
      copy(digits + 4);
      return {};
    }
    if (hex_digits(2) < 2 || peek(2) > '7') return unsupported("\\x beyond ASCII");
    copy(4);
    return {};
  }

  Status character_class() {
    copy(1);
    if (peek() == '^') copy(1);
    if (peek() == ']') return unsupported("an empty class");
    while (at_ < in_.size() && peek() != ']') {
      if (peek() == '[') return unsupported("a class inside a class");
      if (starts_with("&&")) return unsupported("&& inside a class");
      if (peek() == '\\') {
        FF_TRY(escape(/*in_class=*/true));
      } else {
        copy(1);
      }
    }
    if (at_ == in_.size()) return unsupported("a class without its ]");
    copy(1);
    return {};
  }

  Status group() {
    if (peek(1) == '*') return unsupported("(*");
    if (peek(1) != '?') {
      copy(1);
      return {};
    }
    for (const std::string_view opening : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"}) {
      if (starts_with(opening)) {
        copy(opening.size());
        return {};
      }
    }
    // Elsewhere than at the start the two dialects disagree on how far an option reaches.
    if (at_ == 0 && starts_with("(?i)")) {
      copy(4);
      return {};
    }
    return unsupported(in_.substr(at_, 4));
  }

  // {n}, {n,}, {n,m} and the lazy {n,m}?; a brace that opens none of these is a literal in both
  // dialects. {,m}, {n}? and {n,m}+ are read differently.
  Status interval() {
    size_t length = 1;
    const auto digits = [&] {
      const size_t begin = length;
      while (std::isdigit(static_cast<unsigned char>(peek(length))) != 0) ++length;
      return length - begin;
    };
    const bool minimum = digits() > 0;
    const bool comma = peek(length) == ',';
    bool maximum = false;
    if (comma) {
      ++length;
      maximum = digits() > 0;
    }
    if (peek(length) != '}' || (!minimum && !maximum)) {
      emit("\\{", 1);
      return {};
    }
    if (!minimum) return unsupported("{,m}");
    ++length;
    if (peek(length) == '+' || (peek(length) == '?' && !comma)) {
      return unsupported(in_.substr(at_, length + 1));
    }
    copy(length);
    return {};
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

Result<std::string> translate_regex(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace fourfold::text
