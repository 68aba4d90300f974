#pragma once

#include <string_view>

namespace fourfold::verify {

/// The text of report.html, report.css and report.js, put into the program by the build.
extern const std::string_view kReportHtml;
extern const std::string_view kReportCss;
extern const std::string_view kReportJs;

}  // namespace fourfold::verify
