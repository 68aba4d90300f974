// docs/route.md has the table that the router is made of.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "route/route_api.h"

namespace fourfold::route {
namespace {

TEST(Documentation, HasTheTableOfPaths) {
  std::string table = "| path | method | key | what it is |\n| --- | --- | --- | --- |\n";
  for (const RoutePath& path : route_paths()) {
    const char* access = path.access == Access::kOpen     ? "none"
                         : path.access == Access::kClient ? "client"
                                                          : "admin";
    table += fmt::format("| `{}` | {} | {} | {} |\n", path.path,
                         path.method.empty() ? "any" : path.method, access, path.help);
  }
  std::ostringstream text;
  text << std::ifstream(FOURFOLD_SOURCE_DIR "/docs/route.md").rdbuf();
  EXPECT_NE(text.str().find(table), std::string::npos) << "docs/route.md should have:\n" << table;
}

}  // namespace
}  // namespace fourfold::route
