#pragma once

#define XXH_INLINE_ALL
#include <fmt/format.h>
#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "text/tokenizer.h"

namespace fourfold::text {

/// What an independent implementation says about many strings (format: tests/golden/README.md).
struct TokenizerGolden {
  struct Answer {
    uint64_t ids_hash;         ///< XXH64 of the ids as int32.
    uint32_t text_hash;        ///< Low half of the XXH64 of the decoded text.
    std::vector<int32_t> ids;  ///< Only of the first strings.
  };
  std::vector<std::string> strings;
  std::vector<Answer> answers;
};

/// Reads little-endian values one after the other.
class GoldenReader {
 public:
  explicit GoldenReader(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    CHECK(file.good(), "{} cannot be opened", path);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }

  template <typename T>
  T value() {
    T out;
    std::memcpy(&out, take(sizeof out).data(), sizeof out);
    return out;
  }

  std::string_view take(size_t size) {
    CHECK(bytes_.size() - at_ >= size, "a golden file ends early");
    at_ += size;
    return std::string_view(bytes_).substr(at_ - size, size);
  }

 private:
  std::string bytes_;
  size_t at_ = 0;
};

/// Reads `strings.bin` and `NAME.ids` of a folder.
inline TokenizerGolden read_tokenizer_golden(const std::string& folder, const std::string& name) {
  TokenizerGolden golden;
  GoldenReader strings(folder + "/strings.bin");
  golden.strings.resize(strings.value<uint32_t>());
  for (std::string& string : golden.strings) string = strings.take(strings.value<uint32_t>());
  GoldenReader ids(folder + "/" + name + ".ids");
  golden.answers.resize(ids.value<uint32_t>());
  const auto full = ids.value<uint32_t>();
  for (auto& answer : golden.answers) {
    answer.ids_hash = ids.value<uint64_t>();
    answer.text_hash = ids.value<uint32_t>();
  }
  for (size_t i = 0; i < full; ++i) {
    golden.answers[i].ids.resize(ids.value<uint32_t>());
    for (int32_t& id : golden.answers[i].ids) id = ids.value<int32_t>();
  }
  return golden;
}

/// Encodes and decodes every string. One line for each that differs, the first ten; empty: all
/// agree.
inline std::string compare_with_golden(const Tokenizer& tokenizer, const TokenizerGolden& golden) {
  CHECK(golden.strings.size() == golden.answers.size(), "{} strings, {} answers",
        golden.strings.size(), golden.answers.size());
  std::string out;
  int differences = 0;
  for (size_t i = 0; i < golden.strings.size() && differences < 10; ++i) {
    const auto& answer = golden.answers[i];
    const auto ids = tokenizer.encode(golden.strings[i], /*add_special=*/false);
    CHECK(ids.ok(), "string {}: {}", i, ids.error().message);
    const std::string text = tokenizer.decode(*ids, /*skip_special=*/false);
    const bool ids_agree = XXH64(ids->data(), ids->size() * sizeof(int32_t), 0) == answer.ids_hash;
    const bool text_agrees =
        static_cast<uint32_t>(XXH64(text.data(), text.size(), 0)) == answer.text_hash;
    if (ids_agree && text_agrees) continue;
    ++differences;
    out += fmt::format(
        "string {} ({} bytes): {} differ{}; got {} ids: {}; expected: {}\n", i,
        golden.strings[i].size(), ids_agree ? "texts" : "ids",
        ids_agree     ? ""
        : text_agrees ? ", texts agree"
                      : ", texts too",
        ids->size(),
        fmt::join(ids->begin(),
                  ids->begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(40, ids->size())),
                  " "),
        fmt::join(answer.ids, " "));
  }
  return out;
}

}  // namespace fourfold::text
