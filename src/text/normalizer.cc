#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "files/printable.h"
#include "text/pattern.h"
#include "text/unicode_tables.h"
#include "text/utf8.h"

namespace fourfold::text {
namespace {

using base::fail;
using base::Result;
using base::Status;
using files::printable;

bool is_ascii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

// Calls `visit` with each code point of `text`.
template <typename Visit>
void each_code_point(std::string_view text, Visit&& visit) {
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    visit(step.code_point);
    text.remove_prefix(static_cast<size_t>(step.length));
  }
}

int combining_class(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

// Sorts, composes if asked to, and appends decomposed code points, which it clears. These are the
// parts of utf8proc_map apart from its sorting of combining marks, which takes quadratic time and
// so would let one request stop a server.
void append_normalized(std::vector<utf8proc_int32_t>* points, utf8proc_option_t options,
                       std::string* out) {
  for (auto begin = points->begin(); begin != points->end();) {
    const auto end =
        std::find_if(begin, points->end(), [](auto point) { return combining_class(point) == 0; });
    std::stable_sort(begin, end,
                     [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    begin = end == points->end() ? end : end + 1;
  }
  const auto count = utf8proc_normalize_utf32(
      points->data(), static_cast<utf8proc_ssize_t>(points->size()), options);
  CHECK(count >= 0, "utf8proc: {}", utf8proc_errmsg(count));
  points->resize(static_cast<size_t>(count));
  for (const auto point : *points) append_code_point(static_cast<char32_t>(point), out);
  points->clear();
}

std::string unicode_form(std::string_view text, bool compose, bool compatibility) {
  if (is_ascii(text)) return std::string(text);
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
      (compatibility ? UTF8PROC_COMPAT : 0));
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> points;
  each_code_point(text, [&](char32_t code_point) {
    if (unknown_to_normal_forms(code_point)) {
      append_normalized(&points, options, &out);
      append_code_point(code_point, &out);
      return;
    }
    std::array<utf8proc_int32_t, 32> parts;  // U+FDFA, the longest, has 18.
    const auto count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point), parts.data(),
                                static_cast<utf8proc_ssize_t>(parts.size()), options, nullptr);
    CHECK(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()),
          "U+{:04X} decomposes into {} code points", static_cast<uint32_t>(code_point), count);
    points.insert(points.end(), parts.begin(), parts.begin() + count);
  });
  append_normalized(&points, options, &out);
  return out;
}

std::string lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  each_code_point(text, [&](char32_t code_point) {
    if (code_point == 0x130) {
      out += "i\u0307";  // The only character whose lower case has two.
      return;
    }
    append_code_point(
        static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point))), &out);
  });
  return out;
}

base::Error too_long(size_t max_bytes) {
  return fail("the tokenizer's normalizer makes a text longer than the {} bytes that are supported",
              max_bytes);
}

Status replace(const Regex& pattern, std::string_view content, const SearchBudget& budget,
               size_t max_bytes, std::string* text) {
  std::vector<Span> matches;
  FF_TRY(pattern.find_all(*text, budget, &matches));
  if (matches.empty()) return {};
  std::string out;
  size_t at = 0;
  for (const Span& match : matches) {
    const auto begin = static_cast<size_t>(match.begin);
    out.append(*text, at, begin - at).append(content);
    at = static_cast<size_t>(match.end);
    if (out.size() > max_bytes) return too_long(max_bytes);
  }
  out.append(*text, at);
  *text = std::move(out);
  return {};
}

}  // namespace

Status Normalizer::add_steps(const JsonNode& json, std::vector<Step>* steps) {
  FF_ASSIGN(const std::string type, json.string_at("type"));
  if (type == "Sequence") {
    FF_ASSIGN(const JsonNode list, json.at("normalizers"));
    FF_ASSIGN(const std::vector<JsonNode> nodes, list.elements());
    for (const JsonNode& node : nodes) FF_TRY(add_steps(node, steps));
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    steps->push_back(UnicodeForm{type.ends_with('C'), type.starts_with("NFK")});
  } else if (type == "Lowercase") {
    steps->push_back(Lowercase{});
  } else if (type == "Prepend") {
    FF_ASSIGN(std::string prefix, json.string_at("prepend"));
    steps->push_back(Prepend{std::move(prefix)});
  } else if (type == "Replace") {
    FF_ASSIGN(const JsonNode pattern, json.at("pattern"));
    FF_ASSIGN(Regex regex, parse_pattern(pattern));
    FF_ASSIGN(std::string content, json.string_at("content"));
    steps->push_back(Replace{std::move(regex), std::move(content)});
  } else {
    return fail(
        "{} has the type '{}'; supported are Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Prepend, "
        "Replace",
        json.path(), printable(type));
  }
  return {};
}

Result<Normalizer> Normalizer::create(const JsonNode& json) {
  Normalizer normalizer;
  FF_TRY(add_steps(json, &normalizer.steps_));
  FF_TRY(check_step_count(json, std::ssize(normalizer.steps_)));
  return normalizer;
}

Status Normalizer::apply(const SearchBudget& budget, std::string* text) const {
  const auto max_bytes = static_cast<size_t>(max_rewritten_bytes(std::ssize(*text)));
  for (const Step& step : steps_) {
    if (const auto* form = std::get_if<UnicodeForm>(&step)) {
      *text = unicode_form(*text, form->compose, form->compatibility);
    } else if (std::holds_alternative<Lowercase>(step)) {
      *text = lowercase(*text);
    } else if (const auto* prepend = std::get_if<Prepend>(&step)) {
      if (!text->empty()) text->insert(0, prepend->prefix);
    } else {
      const auto& [pattern, content] = std::get<Replace>(step);
      FF_TRY(replace(pattern, content, budget, max_bytes, text));
    }
    if (text->size() > max_bytes) return too_long(max_bytes);
  }
  return {};
}

}  // namespace fourfold::text
