#include "http/sse_reader.h"

#include <gmock/gmock.h>

#include <vector>

namespace fourfold::http {
namespace {

using testing::ElementsAre;

std::vector<std::string> read(std::string_view text, size_t piece) {
  SseReader reader;
  std::vector<std::string> out;
  while (!text.empty()) {
    EXPECT_TRUE(
        reader.push(text.substr(0, piece), [&](std::string_view data) { out.emplace_back(data); })
            .ok());
    text.remove_prefix(std::min(piece, text.size()));
  }
  return out;
}

TEST(SseReader, GivesTheDataOfWholeEventsWhateverThePieces) {
  const std::string_view text =
      "\xEF\xBB\xBF"
      "data: one\n\n: a comment\nevent: x\ndata:two\ndata:  lines\r\n\r\nid: 1\n\n"
      "data\n\rdata: [DONE]\r\rdata: never ended\n";
  for (const size_t piece : {1, 2, 3, 7, 1000}) {
    EXPECT_THAT(read(text, piece), ElementsAre("one", "two\n lines", "", "[DONE]")) << piece;
  }
}

TEST(SseReader, RefusesAnEventWithoutEnd) {
  SseReader reader;
  const std::string line = "data: " + std::string(1 << 20, 'x') + "\n";
  base::Status status;
  for (int i = 0; i < 20 && status.ok(); ++i) {
    status = reader.push(line, [](std::string_view) { FAIL(); });
  }
  EXPECT_FALSE(status.ok());
}

}  // namespace
}  // namespace fourfold::http
