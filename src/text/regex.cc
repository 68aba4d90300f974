#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

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
      : code_(code), text_(text), data_(pcre2_match_data_create(1, nullptr)) {
    CHECK(data_ != nullptr, "out of memory");
  }

  // PCRE2's result code: positive for a match, which `span` then gives.
  int search(int64_t from, Span* span) {
    int code = match(from);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT && stack_ == nullptr) {
      // The compiled code starts on 32 KiB of this thread's stack.
      stack_.reset(pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr));
      context_.reset(pcre2_match_context_create(nullptr));
      if (stack_ == nullptr || context_ == nullptr) return PCRE2_ERROR_NOMEMORY;
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
  JitStack stack_;
  MatchContext context_;
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
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre2.data()), pcre2.size(),
                                   PCRE2_UTF | options, &error, &offset, nullptr);
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

Status Regex::find_all(std::string_view text, std::vector<Span>* matches) const {
  matches->clear();
  Searcher searcher(code_.get(), text);
  const auto size = static_cast<int64_t>(text.size());
  int64_t from = 0;
  int64_t last_end = -1;
  while (from <= size) {
    Span span;
    const int code = searcher.search(from, &span);
    if (code == PCRE2_ERROR_NOMATCH) break;
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
