#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <time.h>

#include <algorithm>

#include "base/check.h"
#include "files/printable.h"

namespace fourfold::text {
namespace {

using base::fail;
using base::Result;
using base::Status;

constexpr size_t kMaxPatternBytes = 65536;
// Enough for a group that repeats over several megabytes of text; the memory is only touched as far
// as a match needs it.
constexpr size_t kJitStackMin = size_t{1} << 16;
constexpr size_t kJitStackMax = size_t{256} << 20;
// The budget of a search: far above the 50 ns a byte that the patterns of real tokenizers take.
constexpr double kBudgetSeconds = 0.25;
constexpr double kBudgetSecondsPerByte = 1e-6;
// Between two looks at the budget a search tries so many places to begin, or finds so many matches.
constexpr int64_t kStartsPerSearch = 16;
constexpr int kMatchesPerLook = 16;

double seconds_of(clockid_t clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// PCRE2 counts how often a match that begins at one place goes back to try something else, and each
// time may pass over the whole text. Patterns of real tokenizers go back at most once a character.
uint32_t match_limit(size_t text_bytes) {
  constexpr size_t kSteps = size_t{1} << 28;
  return static_cast<uint32_t>(std::max(2 * text_bytes, kSteps / (text_bytes + 1)));
}

std::string error_text(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>>;

// The state of one search, owned by one call and so by one thread.
class Searcher {
 public:
  Searcher(const pcre2_code* code, std::string_view text)
      : code_(code),
        text_(text),
        data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    CHECK(data_ != nullptr && context_ != nullptr, "out of memory");
    pcre2_set_match_limit(context_.get(), match_limit(text.size()));
  }

  // Looks for a match that begins in [from, last]. PCRE2's result code: positive for a match, which
  // `span` then gives.
  int search(int64_t from, int64_t last, Span* span) {
    pcre2_set_offset_limit(context_.get(), static_cast<PCRE2_SIZE>(last));
    int code = match(from);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT && stack_ == nullptr) {
      // The compiled code starts on 32 KiB of this thread's stack.
      stack_.reset(pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr));
      if (stack_ == nullptr) return PCRE2_ERROR_NOMEMORY;
      pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
      code = match(from);
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data_.get());
    *span = {static_cast<int64_t>(bounds[0]), static_cast<int64_t>(bounds[1])};
    return code;
  }

 private:
  int match(int64_t from) {
    // The text was made valid once; checking it at every match would be quadratic.
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(),
                       static_cast<PCRE2_SIZE>(from), PCRE2_NO_UTF_CHECK, data_.get(),
                       context_.get());
  }

  const pcre2_code* code_;
  std::string_view text_;
  MatchData data_;
  MatchContext context_;
  JitStack stack_;
};

int64_t next_character(std::string_view text, int64_t at) {
  do {
    ++at;
  } while (at < static_cast<int64_t>(text.size()) &&
           (static_cast<uint8_t>(text[static_cast<size_t>(at)]) & 0xC0) == 0x80);
  return at;
}

}  // namespace

Result<Regex> Regex::compile_pcre2(std::string_view pcre2, uint32_t options,
                                   std::string_view source) {
  if (pcre2.size() > kMaxPatternBytes) {
    return fail("a regular expression has {} bytes; at most {} are supported", pcre2.size(),
                kMaxPatternBytes);
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre2.data()), pcre2.size(),
                    PCRE2_UTF | PCRE2_USE_OFFSET_LIMIT | options, &error, &offset, nullptr);
  if (code == nullptr) {
    return fail("the regular expression '{}' is not valid: {}", files::printable(source),
                error_text(error));
  }
  Regex regex;
  regex.code_ = std::shared_ptr<const pcre2_code>(
      code, [](const pcre2_code* c) { pcre2_code_free(const_cast<pcre2_code*>(c)); });
  regex.source_ = source;
  // Where the machine forbids generated code this fails and matching is interpreted.
  (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return regex;
}

Result<Regex> Regex::compile(std::string_view pattern) {
  if (pattern.empty()) return fail("a regular expression is empty");
  FF_ASSIGN(const std::string pcre2, translate_regex(pattern));
  return compile_pcre2(pcre2, PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, pattern);
}

Result<Regex> Regex::literal(std::string_view literal) {
  if (literal.empty()) return fail("a pattern is an empty string");
  return compile_pcre2(literal, PCRE2_LITERAL, literal);
}

SearchBudget::SearchBudget(int64_t text_bytes)
    : seconds_(kBudgetSeconds + kBudgetSecondsPerByte * static_cast<double>(text_bytes)),
      end_(seconds_of(CLOCK_THREAD_CPUTIME_ID) + seconds_),
      wall_begin_(seconds_of(CLOCK_MONOTONIC)) {}

bool SearchBudget::is_spent() const {
  return seconds_of(CLOCK_MONOTONIC) - wall_begin_ > seconds_ &&
         seconds_of(CLOCK_THREAD_CPUTIME_ID) > end_;
}

Status Regex::find_all(std::string_view text, const SearchBudget& budget,
                       std::vector<Span>* matches) const {
  matches->clear();
  Searcher searcher(code_.get(), text);
  const auto size = static_cast<int64_t>(text.size());
  int64_t from = 0;
  int64_t last_end = -1;
  while (from <= size) {
    Span span;
    const int64_t last = std::min(from + kStartsPerSearch, size);
    const int code = searcher.search(from, last, &span);
    const bool looks = code == PCRE2_ERROR_NOMATCH || matches->size() % kMatchesPerLook == 0;
    if (looks && budget.is_spent()) {
      return fail("the regular expression '{}' takes more than {:.2f} s on a text of {} bytes",
                  files::printable(source_), budget.seconds(), text.size());
    }
    if (code == PCRE2_ERROR_NOMATCH) {
      from = next_character(text, last);
      continue;
    }
    if (code < 0) {
      return fail("the regular expression '{}' failed on a text of {} bytes: {}",
                  files::printable(source_), text.size(), error_text(code));
    }
    if (span.begin == span.end && span.end == last_end) {
      from = next_character(text, from);
      continue;
    }
    matches->push_back(span);
    from = last_end = span.end;
  }
  return {};
}

}  // namespace fourfold::text
