#include "serve/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "files/scratch_folder.h"

namespace fourfold::serve {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Keys, AreOneALineWithoutCommentsAndEmptyLines) {
  const files::ScratchFolder folder;
  const Keys keys =
      Keys::read(folder.write("keys", "# of the tests\n\nsk-first\r\nsk-second\n")).value();
  EXPECT_TRUE(keys.needed());
  EXPECT_TRUE(keys.accept("Bearer sk-first"));
  EXPECT_TRUE(keys.accept("bearer sk-second"));
  for (const char* shown :
       {"", "Bearer", "Bearer ", "Bearer sk-firs", "Bearer sk-first ", "Bearer sk-firstsk-first",
        "Bearer sk-third", "Basic sk-first", "sk-first", "Bearer # of the tests"}) {
    EXPECT_FALSE(keys.accept(shown)) << shown;
  }
}

TEST(Keys, AreNotNeededWhereThereIsNone) {
  EXPECT_FALSE(Keys().needed());
  EXPECT_TRUE(Keys().accept(""));
}

TEST(Keys, OfABadFileAreRefusedWithoutBeingShown) {
  const files::ScratchFolder folder;
  EXPECT_FALSE(Keys::read(folder.path() / "absent").ok());
  EXPECT_FALSE(Keys::read(folder.write("empty", "# nothing\n")).ok());
  const auto spaced = Keys::read(folder.write("spaced", "one\nse cret\n"));
  ASSERT_FALSE(spaced.ok());
  EXPECT_THAT(spaced.error().message, HasSubstr("spaced:2"));
  EXPECT_THAT(spaced.error().message, Not(HasSubstr("cret")));
}

}  // namespace
}  // namespace fourfold::serve
