#include "runtime/request_fault.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <stdexcept>

#include "runtime/fault.h"

namespace fourfold::runtime {
namespace {

constexpr std::array<std::string_view, kRequestSteps> kNames = {
    "handle",       "enqueue",     "parse",          "fields",         "model",
    "sampling",     "biases",      "stops",          "stream-options", "parse-ordered",
    "form",         "compile",     "constrain",      "logprobs",       "tools",
    "tool-choice",  "messages",    "template",       "tokenize",       "decode-prompt",
    "length",       "take",        "unknown-fields", "admit",          "seed",
    "writer",       "submit",      "event",          "detokenize",     "text-offset",
    "read-calls",   "add-calls",   "token-logprobs", "chunk",          "observe",
    "start-stream", "write-chunk", "usage",          "end-stream",     "body",
    "respond"};
static_assert(kNames.back() == "respond", "a step without a name");

}  // namespace

std::string_view name_of(RequestStep step) { return kNames.at(static_cast<size_t>(step)); }

std::optional<RequestStep> request_step(std::string_view name) {
  const auto* const found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<RequestStep>(found - kNames.begin());
}

void throw_request_fault(RequestStep step) {
  failing_step.reset();  // what tells the client must not fail as well
  throw std::runtime_error(fmt::format("{} said so at {}", kFaultVariable, name_of(step)));
}

}  // namespace fourfold::runtime
