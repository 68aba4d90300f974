#include "runtime/token_ring.h"

#include "base/check.h"

namespace fourfold::runtime {

using engine::StepId;
using tensor::DType;
using tensor::View;

base::Result<TokenRing> TokenRing::create(const backend::Ops& ops, int steps, int64_t width) {
  TokenRing out;
  out.steps_.assign(static_cast<size_t>(steps), StepId(-1));
  out.width_ = width;
  const int64_t bytes = steps * width * size_of(DType::kI32);
  FF_ASSIGN(out.ring_, ops.allocate(bytes));
  FF_ASSIGN(out.host_, ops.allocate_host(bytes));
  return out;
}

View TokenRing::whole() const { return {ring_.data(), DType::kI32, {std::ssize(steps_) * width_}}; }

View TokenRing::part_of(const tensor::Buffer& buffer, StepId step, int64_t count) const {
  CHECK(count <= width_, "{} tokens of a step, at most {}", count, width_);
  return {static_cast<int32_t*>(buffer.data()) + static_cast<int64_t>(part(step)) * width_,
          DType::kI32,
          {count}};
}

View TokenRing::begin(StepId step, int64_t count) {
  steps_[part(step)] = step;
  return part_of(ring_, step, count);
}

View TokenRing::on_host(StepId step, int64_t count) const { return part_of(host_, step, count); }

int32_t TokenRing::name_of(StepId step, int32_t row) const {
  CHECK(steps_[part(step)] == step && row < width_,
        "a row names step {}, row {}, which is not among the last {} steps", step.value, row,
        steps_.size());
  return static_cast<int32_t>(-1 - (static_cast<int64_t>(part(step)) * width_ + row));
}

}  // namespace fourfold::runtime
