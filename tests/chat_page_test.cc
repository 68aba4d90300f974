// The page of `fourfold serve` as its user meets it: in a browser, which
// tests/chat_page/check_chat_page.py drives. Needs Chromium, which tools/setup.sh --tests installs.

#include <gtest/gtest.h>

#include "tests/support/command_line.h"

namespace fourfold::tests {
namespace {

TEST(ChatPage, ChatsStopsAndShowsTheServer) {
  const Outcome out = run_command("python3 " FOURFOLD_SOURCE_DIR
                                  "/tests/chat_page/check_chat_page.py " FOURFOLD_BINARY,
                                  /*seconds=*/300);
  EXPECT_EQ(out.code, 0) << out.text;
}

}  // namespace
}  // namespace fourfold::tests
