// Answers of another server; the first byte says how they are cut. Whatever the pieces, what is
// read of them is that of the whole. A bad head may be refused early or be waited for to its end.
#include "base/check.h"
#include "http/response_reader.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {
namespace {

std::string read(std::string_view bytes, size_t piece_bytes) {
  http::ResponseReader reader(/*no_body=*/false);
  std::string out;
  int heads = 0;
  while (!bytes.empty() && !reader.done()) {
    const std::string_view piece = bytes.substr(0, piece_bytes);
    const base::Status pushed = reader.push(
        piece,
        [&](const http::ResponseHead& head) {
          CHECK(++heads == 1 && head.status >= 200, "head {} with {}", heads, head.status);
          out += std::to_string(head.status) + "\n";
          for (const http::Header& h : head.headers) {
            CHECK(h.value.find_first_of("\r\n") == std::string::npos, "a line end in a header");
            out += h.name + ": " + h.value + "\n";
          }
        },
        [&](std::string_view body) { out += body; });
    if (!pushed.ok()) return out + "not whole";
    bytes.remove_prefix(piece.size());
  }
  return out + (reader.done() || reader.end().ok() ? "whole" : "not whole");
}

}  // namespace

void check_input(std::string_view input) {
  if (input.empty()) return;
  const size_t piece_bytes = 1 + static_cast<unsigned char>(input[0]) % 64;
  input.remove_prefix(1);
  const std::string whole = read(input, input.size());
  const std::string cut = read(input, piece_bytes);
  CHECK(cut == whole, "pieces of {} bytes: {}, not {}", piece_bytes, cut, whole);
}

}  // namespace fourfold::fuzz
