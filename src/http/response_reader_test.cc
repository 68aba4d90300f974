#include "http/response_reader.h"

#include <gtest/gtest.h>

#include <string>

namespace fourfold::http {
namespace {

constexpr const char* kChunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The body that comes in pieces of so many bytes, or what is wrong with it.
std::string read_in_pieces(std::string_view bytes, size_t piece_bytes) {
  ResponseReader reader(/*no_body=*/false);
  std::string out;
  while (!bytes.empty() && !reader.done()) {
    const std::string_view piece = bytes.substr(0, piece_bytes);
    const base::Status pushed = reader.push(
        piece, [&](const ResponseHead& head) { out += std::to_string(head.status) + ": "; },
        [&](std::string_view body) { out += body; });
    if (!pushed.ok()) return pushed.error().message;
    bytes.remove_prefix(piece.size());
  }
  return out + (reader.done() ? "" : " and no end");
}

void expect_in_all_pieces(const std::string& bytes, const std::string& what) {
  for (size_t piece = 1; piece <= bytes.size(); ++piece) {
    EXPECT_EQ(read_in_pieces(bytes, piece), what) << "pieces of " << piece << " bytes: " << bytes;
  }
}

TEST(ResponseReader, ReadsTheSameWhateverThePieces) {
  expect_in_all_pieces("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "200: abc");
  expect_in_all_pieces(kChunked + std::string("0\r\n\r\n"), "200: ");
  expect_in_all_pieces(kChunked + std::string("1\r\na\r\n0\r\n\r\n"), "200: a");
  expect_in_all_pieces(kChunked + std::string("5;x=y\r\nabcde\r\n1\r\nf\r\n00\r\nName: v\r\n\r\n"),
                       "200: abcdef");
  expect_in_all_pieces("HTTP/1.1 100 Continue\r\n\r\n" + std::string(kChunked) + "0\r\n\r\n",
                       "200: ");
}

TEST(ResponseReader, WaitsForTheEndOfALastChunk) {
  const std::string begun = kChunked + std::string("0\r\n\r");
  for (size_t cut = std::string(kChunked).size(); cut <= begun.size(); ++cut) {
    expect_in_all_pieces(begun.substr(0, cut), "200:  and no end");
  }
}

}  // namespace
}  // namespace fourfold::http
