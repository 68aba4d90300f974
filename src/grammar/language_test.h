#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "grammar/json_schema.h"
#include "grammar/machine.h"

namespace fourfold::grammar {

inline constexpr int64_t kPlentyOfWork = 100'000'000;

/// Whether a text belongs to a language, read byte by byte.
inline bool accepts(const Graph& graph, std::string_view text) {
  Machine machine(std::make_shared<const Graph>(graph));
  machine.allow_work(kPlentyOfWork);
  Machine::State state = machine.start();
  for (const char c : text) {
    state = machine.next(state, static_cast<uint8_t>(c));
    if (state == Machine::kDead) return false;
  }
  return machine.complete(state);
}

}  // namespace fourfold::grammar
