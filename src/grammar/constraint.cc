#include "grammar/constraint.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "base/check.h"

namespace fourfold::grammar {

using engine::TokenId;
using text::TokenMask;
using MaskPointer = std::shared_ptr<const TokenMask>;

namespace {

/// What is remembered of one language before it is forgotten.
constexpr size_t kCacheBytes = size_t{4} << 20;
/// For one mask: about 10 ms.
constexpr int64_t kMaskWork = 1'000'000;

}  // namespace

/// The states that outputs have been in, and their masks.
struct Constraint::Cache {
  explicit Cache(std::shared_ptr<const Graph> graph) : machine(std::move(graph)) {}

  std::mutex mutex;
  Machine machine;
  std::unordered_map<Machine::State, MaskPointer> masks;
  size_t mask_bytes = 0;

  bool full() const { return machine.bytes() + mask_bytes > kCacheBytes; }
};

class Constraint::TextWalk final : public text::TokenConstraint::Walk {
 public:
  TextWalk(std::shared_ptr<const Constraint> constraint, std::shared_ptr<Cache> cache)
      : constraint_(std::move(constraint)),
        cache_(std::move(cache)),
        state_(cache_->machine.start()) {}

  base::Result<MaskPointer> allowed() override {
    const std::lock_guard lock(cache_->mutex);
    MaskPointer& known = cache_->masks[state_];
    if (known != nullptr) return known;
    cache_->machine.allow_work(kMaskWork);
    TokenMask mask;
    if (state_ != Machine::kDead) mask = constraint_->tokens_->allowed(cache_->machine, state_);
    if (state_ == Machine::kDead || cache_->machine.exhausted()) {
      return base::fail("what the answer is constrained to takes too much work to follow");
    }
    if (std::all_of(mask.begin(), mask.end(), [](uint32_t word) { return word == 0; })) {
      return base::fail(
          "no token of the model goes on with the text that the answer is constrained to");
    }
    cache_->mask_bytes += mask.size() * sizeof(mask[0]);
    known = std::make_shared<const TokenMask>(std::move(mask));
    return known;
  }

  base::Status accept(TokenId token) override {
    const auto refused = [&] {
      return base::fail("token {} is none that the answer is constrained to", token);
    };
    {
      const std::lock_guard lock(cache_->mutex);
      Machine& machine = cache_->machine;
      if (constraint_->tokens_->is_end(token)) {
        return machine.complete(state_) ? base::Status() : refused();
      }
      const std::string_view bytes = constraint_->tokens_->bytes(token);
      if (bytes.empty()) return refused();
      machine.allow_work(kMaskWork);
      for (const char c : bytes) {
        state_ = machine.next(state_, static_cast<uint8_t>(c));
        if (state_ == Machine::kDead) return refused();
      }
      if (!cache_->full()) return {};
    }
    const std::shared_ptr<Cache> old = std::exchange(cache_, constraint_->renew(cache_));
    const std::scoped_lock lock(cache_->mutex, old->mutex);
    state_ = cache_->machine.import(old->machine, state_);
    return {};
  }

 private:
  std::shared_ptr<const Constraint> constraint_;
  std::shared_ptr<Cache> cache_;
  Machine::State state_;
};

Constraint::Constraint(Graph graph, std::shared_ptr<const TokenTable> tokens)
    : graph_(std::make_shared<const Graph>(std::move(graph))),
      tokens_(std::move(tokens)),
      cache_(std::make_shared<Cache>(graph_)) {}

base::Result<std::shared_ptr<const Constraint>> Constraint::create(
    Graph graph, std::shared_ptr<const TokenTable> tokens) {
  if (!tokens->has_end()) {
    return base::fail("this model has no end token, so that no constrained answer could end");
  }
  std::shared_ptr<const Constraint> out(new Constraint(std::move(graph), std::move(tokens)));
  FF_TRY(out->begin()->allowed());
  return out;
}

std::unique_ptr<text::TokenConstraint::Walk> Constraint::begin() const {
  return std::make_unique<TextWalk>(shared_from_this(), cache());
}

std::shared_ptr<Constraint::Cache> Constraint::cache() const {
  const std::lock_guard lock(mutex_);
  return cache_;
}

/// Where a walk goes on whose cache is full.
std::shared_ptr<Constraint::Cache> Constraint::renew(const std::shared_ptr<Cache>& full) const {
  const std::lock_guard lock(mutex_);
  if (cache_ == full) cache_ = std::make_shared<Cache>(graph_);
  return cache_;
}

}  // namespace fourfold::grammar
