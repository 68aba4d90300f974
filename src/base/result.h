#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace fourfold::base {

/// Something the user can fix: what was expected, what was found, what to do. One or two sentences,
/// without a trailing newline.
struct Error {
  std::string message;
};

/// Makes an Error from a format string: `return fail("{} has {} bytes, expected {}", ...)`.
template <typename... Args>
[[nodiscard]] Error fail(fmt::format_string<Args...> format, Args&&... args) {
  return Error{fmt::format(format, std::forward<Args>(args)...)};
}

/// A value or an Error. Reading the value of a failed Result is a bug and ends the program.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    CHECK(ok(), "{}", error().message);
    return std::get<0>(state_);
  }
  const T& value() const& {
    CHECK(ok(), "{}", error().message);
    return std::get<0>(state_);
  }
  /// A value and not a reference, so that `for (x : f().value())` walks over something alive.
  T value() && {
    CHECK(ok(), "{}", error().message);
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const {
    CHECK(!ok(), "error() of a Result that holds a value");
    return std::get<1>(state_);
  }

 private:
  std::variant<T, Error> state_;
};

/// Success or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)), ok_(false) {}  // NOLINT: implicit

  bool ok() const { return ok_; }
  explicit operator bool() const { return ok_; }
  const Error& error() const {
    CHECK(!ok_, "error() of a Result that succeeded");
    return error_;
  }

 private:
  Error error_;
  bool ok_ = true;
};

using Status = Result<void>;

}  // namespace fourfold::base

#define FF_CONCAT_INNER(a, b) a##b
#define FF_CONCAT(a, b) FF_CONCAT_INNER(a, b)

/// Returns the error of `expression` (a Status) from the calling function, if it has one.
#define FF_TRY(expression)                                                  \
  do {                                                                      \
    const auto& ff_status = (expression);                                   \
    if (!ff_status.ok()) return ::fourfold::base::Error(ff_status.error()); \
  } while (false)

/// `FF_ASSIGN(auto x, f())`: x = the value of f(), or returns its error from the calling function.
#define FF_ASSIGN(declaration, expression) \
  FF_ASSIGN_INNER(FF_CONCAT(ff_result_, __LINE__), declaration, expression)
// NOLINTBEGIN(bugprone-macro-parentheses): a declaration and the name of a variable.
#define FF_ASSIGN_INNER(temporary, declaration, expression)               \
  auto temporary = (expression);                                          \
  if (!temporary.ok()) return ::fourfold::base::Error(temporary.error()); \
  declaration = std::move(temporary).value()
// NOLINTEND(bugprone-macro-parentheses)
