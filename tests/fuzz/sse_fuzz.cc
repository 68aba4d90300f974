// A stream of server-sent events; the first byte says how it is cut. Whatever the pieces, the
// events are those of the whole.
#include <vector>

#include "base/check.h"
#include "http/sse_reader.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {
namespace {

std::vector<std::string> read(std::string_view bytes, size_t piece_bytes) {
  http::SseReader reader;
  std::vector<std::string> out;
  while (!bytes.empty()) {
    const std::string_view piece = bytes.substr(0, piece_bytes);
    const base::Status read =
        reader.push(piece, [&](std::string_view data) { out.emplace_back(data); });
    CHECK(read.ok(), "{}", read.error().message);
    bytes.remove_prefix(piece.size());
  }
  return out;
}

}  // namespace

void check_input(std::string_view input) {
  if (input.empty()) return;
  const size_t piece_bytes = 1 + static_cast<unsigned char>(input[0]) % 64;
  input.remove_prefix(1);
  const std::vector<std::string> whole = read(input, input.size());
  for (const std::string& data : whole) {
    CHECK(data.find('\r') == std::string::npos, "a carriage return in an event");
  }
  CHECK(read(input, piece_bytes) == whole, "pieces of {} bytes", piece_bytes);
}

}  // namespace fourfold::fuzz
