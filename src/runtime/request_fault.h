#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace fourfold::runtime {

/// What the front does for one request, where kFaultVariable can make it fail (docs/faults.md), in
/// the order in which a request comes by.
enum class RequestStep : uint8_t {
  kHandle,
  kEnqueue,
  kParse,
  kFields,
  kModel,
  kSampling,
  kBiases,
  kStops,
  kStreamOptions,
  kParseOrdered,
  kForm,
  kCompile,
  kConstrain,
  kLogprobs,
  kTools,
  kToolChoice,
  kMessages,
  kTemplate,
  kTokenize,
  kDecodePrompt,
  kLength,
  kTake,
  kUnknownFields,
  kAdmit,
  kSeed,
  kWriter,
  kSubmit,
  kEvent,
  kDetokenize,
  kTextOffset,
  kReadCalls,
  kAddCalls,
  kTokenLogprobs,
  kChunk,
  kObserve,
  kStartStream,
  kWriteChunk,
  kUsage,
  kEndStream,
  kBody,
  kRespond,
};
inline constexpr int kRequestSteps = static_cast<int>(RequestStep::kRespond) + 1;

/// As kFaultVariable has it: "tokenize".
std::string_view name_of(RequestStep step);
std::optional<RequestStep> request_step(std::string_view name);

/// Where this thread's work for a request fails; set by RequestFaultScope alone.
inline thread_local constinit std::optional<RequestStep> failing_step;

/// Throws, as a lack of memory would, and no second time in the same scope.
[[noreturn]] void throw_request_fault(RequestStep step);

/// The work for a request comes by this step.
inline void reach(RequestStep step) {
  if (failing_step == step) [[unlikely]] {
    throw_request_fault(step);
  }
}

/// What this thread does meanwhile is for a request that fails at `step`; nothing: at none.
class RequestFaultScope {
 public:
  explicit RequestFaultScope(std::optional<RequestStep> step) : before_(failing_step) {
    failing_step = step;
  }
  ~RequestFaultScope() { failing_step = before_; }
  RequestFaultScope(const RequestFaultScope&) = delete;
  RequestFaultScope& operator=(const RequestFaultScope&) = delete;

 private:
  std::optional<RequestStep> before_;
};

}  // namespace fourfold::runtime
