#include "text/pre_tokenizer.h"

#include <algorithm>

#include "files/printable.h"
#include "text/byte_alphabet.h"
#include "text/pattern.h"
#include "text/utf8.h"

namespace fourfold::text {
namespace {

using base::fail;
using base::Result;
using base::Status;
using files::printable;

// The words of GPT-2, which ByteLevel implies.
constexpr std::string_view kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kPunctuation = R"([\p{P}!-/:-@\[-`{-~])";

// Rewrites every word by `rewrite(word, range, out)`, which appends to `out`.
template <typename Rewrite>
Status rewrite_words(int64_t max_bytes, Words* words, Rewrite&& rewrite) {
  std::string out;
  out.reserve(words->text.size() + words->ranges.size());
  for (Words::Range& range : words->ranges) {
    const auto begin = static_cast<int64_t>(out.size());
    rewrite(words->at(range), range, &out);
    range.begin = begin;
    range.end = static_cast<int64_t>(out.size());
    if (range.end > max_bytes) {
      return fail("the tokenizer's pre-tokenizer makes a text of more than {} bytes", max_bytes);
    }
  }
  words->text = std::move(out);
  return {};
}

}  // namespace

Result<PreTokenizer::Behavior> PreTokenizer::parse_behavior(const JsonNode& json) {
  FF_ASSIGN(const std::string name, json.string_at("behavior"));
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return fail(
      "{}.behavior is '{}', expected Isolated, Removed, MergedWithPrevious, MergedWithNext or "
      "Contiguous",
      json.path(), printable(name));
}

Status PreTokenizer::add_byte_level(const JsonNode& json, std::vector<Step>* steps) {
  FF_ASSIGN(const bool add_prefix_space, json.boolean_at("add_prefix_space", true));
  FF_ASSIGN(const bool use_regex, json.boolean_at("use_regex", true));
  if (add_prefix_space) steps->push_back(PrefixSpace{});
  if (use_regex) {
    FF_ASSIGN(Regex words, Regex::compile(kGpt2Words));
    steps->push_back(Split{std::move(words), Behavior::kIsolated, /*invert=*/false});
  }
  steps->push_back(ByteLetters{});
  return {};
}

Status PreTokenizer::add_metaspace(const JsonNode& json, std::vector<Step>* steps) {
  FF_ASSIGN(std::string replacement, json.string_at("replacement"));
  if (replacement.empty() ||
      utf8_step(replacement).length != static_cast<int>(replacement.size())) {
    return fail("{}.replacement is '{}', expected one character", json.path(),
                printable(replacement));
  }
  // Older files say add_prefix_space instead of prepend_scheme.
  FF_ASSIGN(const bool add_prefix_space, json.boolean_at("add_prefix_space", true));
  std::string scheme = add_prefix_space ? "always" : "never";
  if (json.has("prepend_scheme")) {
    FF_ASSIGN(scheme, json.string_at("prepend_scheme"));
  }
  Metaspace step{std::move(replacement), Metaspace::Prepend::kNever};
  if (scheme == "always") {
    step.prepend = Metaspace::Prepend::kAlways;
  } else if (scheme == "first") {
    step.prepend = Metaspace::Prepend::kFirst;
  } else if (scheme != "never") {
    return fail("{}.prepend_scheme is '{}', expected always, first or never", json.path(),
                printable(scheme));
  }
  FF_ASSIGN(const bool split, json.boolean_at("split", true));
  FF_ASSIGN(Regex delimiter, Regex::literal(step.replacement));
  steps->push_back(std::move(step));
  if (split) {
    steps->push_back(Split{std::move(delimiter), Behavior::kMergedWithNext, /*invert=*/false});
  }
  return {};
}

Status PreTokenizer::add_split(const JsonNode& json, std::vector<Step>* steps) {
  FF_ASSIGN(const JsonNode pattern, json.at("pattern"));
  FF_ASSIGN(Regex regex, parse_pattern(pattern));
  FF_ASSIGN(const Behavior behavior, parse_behavior(json));
  FF_ASSIGN(const bool invert, json.boolean_at("invert", false));
  steps->push_back(Split{std::move(regex), behavior, invert});
  return {};
}

Status PreTokenizer::add_steps(const JsonNode& json, std::vector<Step>* steps) {
  const auto add = [&](std::string_view pattern, Behavior behavior, bool invert) -> Status {
    FF_ASSIGN(Regex regex, Regex::compile(pattern));
    steps->push_back(Split{std::move(regex), behavior, invert});
    return {};
  };
  FF_ASSIGN(const std::string type, json.string_at("type"));
  if (type == "Sequence") {
    FF_ASSIGN(const JsonNode list, json.at("pretokenizers"));
    FF_ASSIGN(const std::vector<JsonNode> nodes, list.elements());
    for (const JsonNode& node : nodes) FF_TRY(add_steps(node, steps));
    return {};
  }
  if (type == "ByteLevel") return add_byte_level(json, steps);
  if (type == "Metaspace") return add_metaspace(json, steps);
  if (type == "Split") return add_split(json, steps);
  if (type == "Digits") {
    FF_ASSIGN(const bool individual, json.boolean_at("individual_digits", false));
    return add(R"(\p{N})", individual ? Behavior::kIsolated : Behavior::kContiguous, false);
  }
  if (type == "Punctuation") {
    if (!json.has("behavior")) return add(kPunctuation, Behavior::kIsolated, false);
    FF_ASSIGN(const Behavior behavior, parse_behavior(json));
    return add(kPunctuation, behavior, false);
  }
  if (type == "WhitespaceSplit") return add(R"(\s)", Behavior::kRemoved, false);
  if (type == "Whitespace") {
    // \w+|[^\w\s]+
    const std::string_view members = kRustWordClass.substr(1);  // With the closing bracket.
    return add(fmt::format(R"([{0}+|[^\s{0}+)", members), Behavior::kRemoved, /*invert=*/true);
  }
  return fail(
      "{} has the type '{}'; supported are Sequence, ByteLevel, Split, Digits, Punctuation, "
      "Metaspace, Whitespace, WhitespaceSplit",
      json.path(), printable(type));
}

Result<PreTokenizer> PreTokenizer::create(const JsonNode& json) {
  PreTokenizer out;
  FF_TRY(add_steps(json, &out.steps_));
  FF_TRY(check_step_count(json, std::ssize(out.steps_)));
  return out;
}

void PreTokenizer::treat_delimiters(Behavior behavior, std::vector<Stretch>* stretches) {
  std::vector<Stretch> out;
  if (behavior == Behavior::kIsolated) return;
  if (behavior == Behavior::kRemoved) {
    std::erase_if(*stretches, [](const Stretch& s) { return s.is_delimiter; });
    return;
  }
  // The others merge stretches with the one before, which seen from the end is the one behind.
  const bool from_end = behavior == Behavior::kMergedWithNext;
  if (from_end) std::ranges::reverse(*stretches);
  bool previous_delimiter = false;
  for (const Stretch& s : *stretches) {
    const bool merge = behavior == Behavior::kContiguous ? s.is_delimiter == previous_delimiter
                                                         : s.is_delimiter && !previous_delimiter;
    previous_delimiter = s.is_delimiter;
    if (merge && !out.empty()) {
      out.back() = {std::min(out.back().begin, s.begin), std::max(out.back().end, s.end), false};
    } else {
      out.push_back(s);
    }
  }
  if (from_end) std::ranges::reverse(out);
  *stretches = std::move(out);
}

Status PreTokenizer::split(const Split& step, const SearchBudget& budget, Words* words) {
  std::vector<Words::Range> out;
  std::vector<Span> matches;
  std::vector<Stretch> stretches;
  for (const Words::Range& word : words->ranges) {
    FF_TRY(step.pattern.find_all(words->at(word), budget, &matches));
    stretches.clear();
    const int64_t size = word.end - word.begin;
    int64_t at = 0;
    for (const Span& match : matches) {
      if (at < match.begin) stretches.push_back({at, match.begin, step.invert});
      stretches.push_back({match.begin, match.end, !step.invert});
      at = match.end;
    }
    if (at < size) stretches.push_back({at, size, step.invert});
    treat_delimiters(step.behavior, &stretches);
    for (const Stretch& s : stretches) {
      if (s.begin == s.end) continue;
      out.push_back({word.begin + s.begin, word.begin + s.end, word.at_text_start && s.begin == 0});
    }
  }
  words->ranges = std::move(out);
  return {};
}

Status PreTokenizer::apply(const SearchBudget& budget, Words* words) const {
  const int64_t max_bytes = max_rewritten_bytes(std::ssize(words->text));
  for (const Step& step : steps_) {
    if (const auto* cut = std::get_if<Split>(&step)) {
      FF_TRY(split(*cut, budget, words));
    } else if (std::holds_alternative<PrefixSpace>(step)) {
      FF_TRY(
          rewrite_words(max_bytes, words, [](std::string_view word, const auto&, std::string* out) {
            if (!word.starts_with(' ')) out->push_back(' ');
            out->append(word);
          }));
    } else if (std::holds_alternative<ByteLetters>(step)) {
      FF_TRY(
          rewrite_words(max_bytes, words, [](std::string_view word, const auto&, std::string* out) {
            append_byte_letters(word, out);
          }));
    } else {
      const auto& meta = std::get<Metaspace>(step);
      const auto rewrite = [&](std::string_view word, const Words::Range& range, std::string* out) {
        const std::string replaced = replace_all(word, " ", meta.replacement);
        const bool wanted = meta.prepend == Metaspace::Prepend::kAlways ||
                            (meta.prepend == Metaspace::Prepend::kFirst && range.at_text_start);
        if (wanted && !replaced.starts_with(meta.replacement)) out->append(meta.replacement);
        out->append(replaced);
      };
      FF_TRY(rewrite_words(max_bytes, words, rewrite));
    }
  }
  return {};
}

}  // namespace fourfold::text
