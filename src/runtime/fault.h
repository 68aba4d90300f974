#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "comm/progress.h"
#include "engine/step.h"
#include "runtime/request_fault.h"

namespace fourfold::runtime {

/// The environment variable that makes a rank misbehave, or the front fail at a request, for tests
/// of what the others do then.
inline constexpr const char* kFaultVariable = "FOURFOLD_FAULT";

/// Where a rank misbehaves, and how: "rank=2 step=5 layer=3 op=mlp action=kill"; or at which of its
/// steps the front fails at a request: "request=WORD op=tokenize action=throw" (docs/faults.md).
struct FaultSpec {
  enum class Action { kKill, kStop, kHang, kAbort, kExit, kThrow, kSlow, kCorrupt, kTrap };

  std::optional<int> rank;       ///< of the whole scheme
  std::optional<int> restart;    ///< of the rank's group before this life
  std::optional<int64_t> step;   ///< of the rank's group
  std::optional<int32_t> layer;  ///< of the model
  std::string operation;         ///< a name of comm::Operation or comm::CallKind; empty: any
  std::optional<engine::TokenId> token;  ///< among the inputs of the step
  Action action = Action::kHang;
  std::chrono::milliseconds delay{0};  ///< of kSlow
  /// Of requests whose body has it somewhere; empty: a rank misbehaves.
  std::string request;
  RequestStep request_step = RequestStep::kHandle;  ///< with `request` alone

  static base::Result<FaultSpec> parse(std::string_view text);
  /// What kFaultVariable says; nothing if it is not set. Errors: those of parse.
  static base::Result<std::optional<FaultSpec>> from_environment();

  /// Where the front fails at a request with this body, if it does.
  std::optional<RequestStep> failing_step(std::string_view body) const;
  /// It ends or stops the whole process, so that ranks that are threads cannot do it alone.
  bool needs_process() const;
};

/// Watches the marks of one rank and misbehaves at the first one that the specification describes;
/// kSlow and kCorrupt at every one.
class Fault final : public comm::Progress::Observer {
 public:
  explicit Fault(FaultSpec spec) : spec_(std::move(spec)) {}

  /// Until it knows which rank of the scheme it watches, in which life of its group, it does
  /// nothing.
  void watch(int world_rank, int restarts) {
    rank_ = world_rank;
    restarts_ = restarts;
  }
  /// The rank begins this step.
  void begin(std::span<const engine::StepBatch> batches);
  void at(const comm::Position& position, std::span<float> data) override;
  void has_device(std::function<void()> break_device) override {
    break_device_ = std::move(break_device);
  }
  /// Lets a rank that hangs go on. Any thread may call it.
  void release();

 private:
  bool matches(const comm::Position& position) const;

  FaultSpec spec_;
  std::optional<int> rank_;
  int restarts_ = 0;
  bool has_token_ = false;
  bool done_ = false;
  std::function<void()> break_device_;
  std::atomic<bool> released_ = false;
};

}  // namespace fourfold::runtime
