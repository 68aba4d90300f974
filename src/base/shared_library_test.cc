#include "base/shared_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fourfold::base {
namespace {

using testing::HasSubstr;

TEST(SharedLibrary, FindsFunctions) {
  SharedLibrary library("libm.so.6");
  double (*floor_of)(double) = nullptr;
  library.find(floor_of, "floor");
  ASSERT_EQ(library.error(), "");
  EXPECT_EQ(floor_of(2.5), 2.0);
}

TEST(SharedLibrary, NamesAFunctionThatIsMissing) {
  SharedLibrary library("libm.so.6");
  void (*function)() = nullptr;
  library.find(function, "no_such_function");
  EXPECT_EQ(function, nullptr);
  EXPECT_EQ(library.error(), "libm.so.6 has no no_such_function");
}

TEST(SharedLibrary, SaysWhyItIsNotThere) {
  SharedLibrary library("libnobody.so.9");
  void (*function)() = [] {};
  library.find(function, "anything");
  EXPECT_EQ(function, nullptr);
  EXPECT_THAT(library.error(), HasSubstr("libnobody.so.9: cannot open"));
}

}  // namespace
}  // namespace fourfold::base
