#include "runtime/fault.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>

namespace fourfold::runtime {
namespace {

using base::fail;
using Action = FaultSpec::Action;

constexpr std::string_view kGrammar =
    "expected words KEY=VALUE among rank=N restart=N step=N layer=N op=NAME token=N, and "
    "action=kill|stop|hang|abort|exit|throw|slow:<N>ms|corrupt|trap, for example "
    "\"rank=2 step=5 layer=3 op=mlp action=kill\"; or request=WORD op=NAME action=throw";
constexpr int kExitStatus = 3;
constexpr int64_t kMaxDelayMs = 3'600'000;

constexpr std::array<std::pair<std::string_view, Action>, 8> kActions = {{
    {"kill", Action::kKill},
    {"stop", Action::kStop},
    {"hang", Action::kHang},
    {"abort", Action::kAbort},
    {"exit", Action::kExit},
    {"throw", Action::kThrow},
    {"corrupt", Action::kCorrupt},
    {"trap", Action::kTrap},
}};

base::Error refuse(std::string_view word) {
  return fail("{} has \"{}\": {}", kFaultVariable, word, kGrammar);
}

template <typename Int>
bool parse_number(std::string_view text, Int& out) {
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, out);
  return error == std::errc() && rest == end && out >= 0;
}

template <typename Int>
bool parse_number(std::string_view text, std::optional<Int>& out) {
  return parse_number(text, out.emplace());
}

bool is_operation(std::string_view name) {
  for (int i = 0; i < comm::kOperations; ++i) {
    if (name == name_of(static_cast<comm::Operation>(i))) return true;
  }
  for (int i = 0; i < comm::kCallKinds; ++i) {
    if (name == name_of(static_cast<comm::CallKind>(i))) return true;
  }
  return false;
}

bool parse_action(std::string_view text, FaultSpec& spec) {
  constexpr std::string_view kSlow = "slow:";
  constexpr std::string_view kUnit = "ms";
  if (text.starts_with(kSlow) && text.ends_with(kUnit)) {
    int64_t delay_ms = 0;
    spec.action = Action::kSlow;
    text = text.substr(kSlow.size(), text.size() - kSlow.size() - kUnit.size());
    if (!parse_number(text, delay_ms) || delay_ms > kMaxDelayMs) return false;
    spec.delay = std::chrono::milliseconds(delay_ms);
    return true;
  }
  for (const auto& [name, action] : kActions) {
    spec.action = action;
    if (text == name) return true;
  }
  return false;
}

bool parse_word(std::string_view key, std::string_view value, FaultSpec& spec) {
  if (key == "rank") return parse_number(value, spec.rank);
  if (key == "restart") return parse_number(value, spec.restart);
  if (key == "step") return parse_number(value, spec.step);
  if (key == "token") return parse_number(value, spec.token);
  if (key == "layer") return parse_number(value, spec.layer);
  if (key == "action") return parse_action(value, spec);
  if (key == "request") {
    spec.request = value;
    return !value.empty();
  }
  spec.operation = value;
  return key == "op" && (is_operation(value) || runtime::request_step(value));
}

}  // namespace

base::Result<FaultSpec> FaultSpec::parse(std::string_view text) {
  FaultSpec spec;
  std::set<std::string_view> keys;
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    if (text.empty()) break;
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(word.size());
    const size_t equals = word.find('=');
    if (equals == std::string_view::npos) return refuse(word);
    const std::string_view key = word.substr(0, equals);
    if (!keys.insert(key).second) return refuse(word);
    if (!parse_word(key, word.substr(equals + 1), spec)) return refuse(word);
  }
  if (!keys.contains("action")) return fail("{} has no action: {}", kFaultVariable, kGrammar);
  const std::optional<RequestStep> step = runtime::request_step(spec.operation);
  if (spec.request.empty() && step) return refuse("op=" + spec.operation);
  if (!spec.request.empty()) {
    if (!step) return fail("{} has no step of a request: {}", kFaultVariable, kGrammar);
    if (keys.size() > 3 || spec.action != Action::kThrow) return refuse("request=" + spec.request);
    spec.request_step = *step;
  }
  return spec;
}

base::Result<std::optional<FaultSpec>> FaultSpec::from_environment() {
  const char* text = std::getenv(kFaultVariable);
  if (text == nullptr) return std::optional<FaultSpec>();
  FF_ASSIGN(FaultSpec spec, parse(text));
  return std::optional<FaultSpec>(std::move(spec));
}

std::optional<RequestStep> FaultSpec::failing_step(std::string_view body) const {
  if (request.empty() || body.find(request) == std::string_view::npos) return std::nullopt;
  return request_step;
}

bool FaultSpec::needs_process() const {
  return action == Action::kKill || action == Action::kStop || action == Action::kAbort ||
         action == Action::kExit;
}

bool Fault::matches(const comm::Position& position) const {
  const std::string_view operation =
      position.call ? name_of(position.call->kind) : name_of(position.operation);
  return spec_.request.empty() && rank_ && spec_.rank.value_or(*rank_) == *rank_ &&
         spec_.restart.value_or(restarts_) == restarts_ &&
         spec_.step.value_or(position.step) == position.step &&
         spec_.layer.value_or(position.layer) == position.layer &&
         (spec_.operation.empty() || spec_.operation == operation) && (!spec_.token || has_token_);
}

void Fault::begin(std::span<const engine::StepBatch> batches) {
  if (!spec_.token) return;
  has_token_ = std::any_of(batches.begin(), batches.end(), [&](const engine::StepBatch& batch) {
    return std::find(batch.tokens.begin(), batch.tokens.end(), *spec_.token) != batch.tokens.end();
  });
}

void Fault::at(const comm::Position& position, std::span<float> data) {
  if (done_ || !matches(position)) return;
  done_ = spec_.action != Action::kSlow && spec_.action != Action::kCorrupt;
  switch (spec_.action) {
    case Action::kKill:
      raise(SIGKILL);
      break;
    case Action::kStop:
      raise(SIGSTOP);
      break;
    case Action::kHang:
      released_.wait(false);
      break;
    case Action::kAbort:
      std::abort();
    case Action::kExit:
      _exit(kExitStatus);
    case Action::kThrow:
      throw std::runtime_error(std::string(kFaultVariable) + " said so");
    case Action::kSlow:
      std::this_thread::sleep_for(spec_.delay);
      break;
    case Action::kTrap:
      if (break_device_) break_device_();
      break;
    case Action::kCorrupt:
      // Off by a fifth to a half.
      if (!data.empty()) {
        data[0] = std::bit_cast<float>(std::bit_cast<uint32_t>(data[0]) ^ 0x0040'0000U);
      }
      break;
  }
}

void Fault::release() {
  released_ = true;
  released_.notify_all();
}

}  // namespace fourfold::runtime
