#include "files/gguf.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {
namespace {

// Asks for a value as every type; at most one kind of answer fits, the others are errors.
void read_value(const files::GgufMetadata& metadata, std::string_view key, bool is_array) {
  int answers = 0;
  if (is_array) {
    answers += metadata.get_array<int64_t>(key).ok() ? 1 : 0;
    answers += metadata.get_array<double>(key).ok() ? 1 : 0;
    answers += metadata.get_array<bool>(key).ok() ? 1 : 0;
    answers += metadata.get_array<std::string_view>(key).ok() ? 1 : 0;
  } else {
    answers += metadata.get<int64_t>(key).ok() ? 1 : 0;
    answers += metadata.get<double>(key).ok() ? 1 : 0;
    answers += metadata.get<bool>(key).ok() ? 1 : 0;
    answers += metadata.get<std::string_view>(key).ok() ? 1 : 0;
  }
  const bool is_empty = is_array && metadata.values().at(key).count == 0;
  CHECK(answers <= 1 || is_empty, "\"{}\" reads as {} types", key, answers);
}

}  // namespace

void check_input(std::string_view input) {
  const auto head = files::parse_gguf(std::as_bytes(std::span(input)), "fuzz");
  if (!head.ok()) return;
  for (const auto& [key, value] : head->metadata.values()) {
    read_value(head->metadata, key, value.is_array);
  }
  int64_t end = 0;
  for (const files::TensorEntry& entry : head->entries) {
    CHECK(entry.offset >= end && entry.bytes >= 0, "{} begins at {} before {}", entry.name,
          entry.offset, end);
    end = entry.offset + entry.bytes;
    CHECK(end <= std::ssize(input), "{} ends at {} of {} bytes", entry.name, end, input.size());
  }
}

}  // namespace fourfold::fuzz
