// The HTML report as a reader meets it: in a browser, which tests/report/check_page.py drives.
// Needs Chromium, which tools/setup.sh --tests installs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/command_line.h"
#include "verify/html/report_html.h"

namespace fourfold::tests {
namespace {

using testing::HasSubstr;

const std::string kFolder = FOURFOLD_SOURCE_DIR "/tests/report";

std::string page_of_eight_schemes() {
  std::ifstream file(kFolder + "/eight_schemes.json");
  const auto html = verify::to_html(nlohmann::ordered_json::parse(file));
  EXPECT_TRUE(html.ok());
  return *html;
}

/// What check_page.py says about `html` as the report of tests/report/eight_schemes.json.
Outcome check(const std::string& html) {
  std::string folder = std::filesystem::temp_directory_path() / "fourfold-report-XXXXXX";
  EXPECT_NE(mkdtemp(folder.data()), nullptr);
  std::ofstream(folder + "/report.html") << html;
  const Outcome out = run_command("python3 " + kFolder + "/check_page.py " + folder +
                                      "/report.html " + kFolder + "/eight_schemes.json",
                                  /*seconds=*/300);
  std::filesystem::remove_all(folder);
  return out;
}

void replace_first(std::string& text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
}

TEST(ReportPage, IsWholeReadableAndEqualToItsJson) {
  const Outcome out = check(page_of_eight_schemes());
  EXPECT_EQ(out.code, 0) << out.text;
}

TEST(ReportPage, IsCheckedByATestThatCanFail) {
  std::string html = page_of_eight_schemes();
  // The first mean on the page becomes another number.
  const std::string cell = "<td data-p=\"metrics/ttft_ms\">";
  const size_t at = html.find(cell);
  ASSERT_NE(at, std::string::npos);
  html.insert(at + cell.size(), "1");
  replace_first(
      html, "</main>",
      "<p>7 untraced words</p><p style=\"color:#999;background:#fff\">pale</p>"
      "<div style=\"width:2000px;height:1px\"></div><img src=\"http://localhost:9/x.png\">"
      "<script>throw new Error('thrown here')</script></main>");
  const Outcome out = check(html);
  EXPECT_EQ(out.code, 1);
  for (const char* problem :
       {"/schemes/0/loads/0/metrics/ttft_ms shows", "'7 untraced words' is not traced", "\"pale\"",
        "wider than the window", "request: http://localhost:9/x.png", "thrown here"}) {
    EXPECT_THAT(out.text, HasSubstr(problem));
  }
}

}  // namespace
}  // namespace fourfold::tests
