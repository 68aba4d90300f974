#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace fourfold::base {

/// Prints `file:line: CHECK(condition) failed: message` with the thread's context and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               std::string_view message);

/// Words that a CHECK of this thread prints, for example "rank 3 (stage 1, shard 1), step 17".
void set_check_context(std::string context);

}  // namespace fourfold::base

/// A bug if false: stays on in release. The message (a format string and its arguments) gives the
/// values that clash.
#define CHECK(condition, ...)                                                                   \
  do {                                                                                          \
    if (!(condition)) [[unlikely]]                                                              \
      ::fourfold::base::check_failed(__FILE__, __LINE__, #condition, fmt::format(__VA_ARGS__)); \
  } while (false)
