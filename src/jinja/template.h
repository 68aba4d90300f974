#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "jinja/value.h"

namespace fourfold::jinja {

/// A chat template in the part of Jinja 3 that such templates use, with what transformers adds:
/// trim_blocks, lstrip_blocks, break and continue, {% generation %}, raise_exception, strftime_now,
/// and a tojson that escapes no HTML. Values cannot be changed, but for members of namespace().
///
/// Not there, and refused: import, include, extends, with, recursive loops, arguments with *,
/// str.format and % of strings, integers above 64 bits, octal escapes, groupby, batch and other
/// filters that no chat template was seen to use. Otherwise than in Jinja: what `safe` and `escape`
/// give is plain text, so + escapes nothing; a range is printed as a list.
class Template {
 public:
  struct Limits {
    int64_t steps = 2'000'000;          ///< statements and expressions that are evaluated
    int64_t bytes = int64_t{64} << 20;  ///< of text and lists that are made on the way
    int64_t source_bytes = int64_t{1} << 20;
  };

  /// Errors: a syntax error with its line; a template that is too long or nested too deeply.
  static base::Result<Template> parse(std::string_view source, const Limits& limits);
  static base::Result<Template> parse(std::string_view source) { return parse(source, Limits()); }

  /// Errors: what Jinja would raise, with the line; raise_exception's message; a limit exceeded.
  /// `now_unix_s`: for strftime_now.
  base::Result<std::string> render(const Dict& variables, int64_t now_unix_s) const;

 private:
  struct Parsed;
  explicit Template(std::shared_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}
  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace fourfold::jinja
