// Requests one after the other, as a connection reads them; the first byte says how they are cut.
// Whatever the pieces, the outcome is that of the whole.
#include "base/check.h"
#include "http/request_reader.h"
#include "tests/fuzz/fuzz_target.h"

namespace fourfold::fuzz {
namespace {

struct Outcome {
  std::string requests;  ///< what handlers would see of them
  std::string refusal;

  bool operator==(const Outcome&) const = default;
};

Outcome read(std::string_view bytes, size_t piece_bytes) {
  const http::Limits limits{
      .target_bytes = 64, .header_bytes = 256, .headers = 8, .body_bytes = 512};
  http::RequestReader reader(limits);
  Outcome out;
  while (!bytes.empty()) {
    bytes.remove_prefix(reader.push(bytes.substr(0, piece_bytes)));
    if (reader.state() == http::RequestReader::State::kRefused) {
      out.refusal = reader.refusal().message;
      CHECK(reader.refusal().status >= 400, "status {}", reader.refusal().status);
      break;
    }
    if (reader.state() != http::RequestReader::State::kComplete) continue;
    const http::Request request = reader.take();
    CHECK(std::cmp_less_equal(request.body.size(), limits.body_bytes) &&
              std::cmp_less_equal(request.headers.size(), limits.headers) &&
              std::cmp_less_equal(request.path.size() + request.query.size(), limits.target_bytes),
          "a request is larger than its limits");
    CHECK(request.header("transfer-encoding").empty() || request.header("content-length").empty(),
          "a request with two lengths");
    out.requests += request.method + " " + request.path + " " + request.query + "\n";
    for (const http::Header& header : request.headers) {
      CHECK(header.value.find_first_of("\r\n") == std::string::npos, "a line end in a header");
      out.requests += header.name + ": " + header.value + "\n";
    }
    out.requests += request.body + "\n";
  }
  return out;
}

}  // namespace

void check_input(std::string_view input) {
  if (input.empty()) return;
  const size_t piece_bytes = 1 + static_cast<unsigned char>(input[0]) % 64;
  input.remove_prefix(1);
  const Outcome whole = read(input, input.size());
  const Outcome cut = read(input, piece_bytes);
  CHECK(cut == whole, "pieces of {} bytes: {}{}, not {}{}", piece_bytes, cut.requests, cut.refusal,
        whole.requests, whole.refusal);
}

}  // namespace fourfold::fuzz
