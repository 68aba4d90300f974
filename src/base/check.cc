#include "base/check.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace fourfold::base {
namespace {
// A word of context for each thread, for messages only.
thread_local std::string check_context;
}  // namespace

void set_check_context(std::string context) { check_context = std::move(context); }

void check_failed(const char* file, int line, const char* condition, std::string_view message) {
  fmt::print(stderr, "{}:{}: CHECK({}) failed: {}{}{}\n", file, line, condition, message,
             check_context.empty() ? "" : " at ", check_context);
  std::fflush(stderr);
  std::abort();
}

}  // namespace fourfold::base
