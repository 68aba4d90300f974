// The files under deploy/ against the program that they are for.

#include <gtest/gtest.h>

#include "tests/support/command_line.h"

namespace fourfold::tests {
namespace {

TEST(DeployFiles, FitTheProgram) {
  const Outcome out =
      run_command("python3 " FOURFOLD_SOURCE_DIR "/tests/deploy/check_deploy.py " FOURFOLD_BINARY,
                  /*seconds=*/120);
  EXPECT_EQ(out.code, 0) << out.text;
}

}  // namespace
}  // namespace fourfold::tests
