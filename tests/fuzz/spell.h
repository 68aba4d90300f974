#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "grammar/machine.h"

namespace fourfold::fuzz {

/// A text of the language that `choices` leads to, byte by byte; empty if it has come to no end
/// within as many bytes and some, or if it takes too much work. CHECKs that no reading gets stuck.
inline std::string spell(grammar::Graph graph, std::string_view choices) {
  using grammar::Machine;
  constexpr int64_t kWork = 200'000;
  constexpr int kBytesMore = 64;
  Machine machine(std::make_shared<const grammar::Graph>(std::move(graph)));
  machine.allow_work(kWork);
  Machine::State state = machine.start();
  if (state == Machine::kDead) return {};
  std::string text;
  const size_t limit = choices.size() + kBytesMore;
  while (text.size() < limit) {
    const bool more = text.size() < choices.size();
    if (machine.complete(state) && !more) return text;
    // The first byte that leads on, from the one that was chosen; closing ones where none was.
    const unsigned wanted = more ? static_cast<uint8_t>(choices[text.size()]) : 0x22;
    Machine::State next = Machine::kDead;
    unsigned byte = wanted;
    for (unsigned i = 0; i < 256 && next == Machine::kDead; ++i) {
      byte = (wanted + i) % 256;
      next = machine.next(state, static_cast<uint8_t>(byte));
    }
    if (machine.exhausted()) return {};
    if (next == Machine::kDead) {
      CHECK(machine.complete(state), "stuck behind {} bytes", text.size());
      return text;
    }
    text += static_cast<char>(byte);
    state = next;
  }
  return {};
}

}  // namespace fourfold::fuzz
