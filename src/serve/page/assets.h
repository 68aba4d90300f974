#pragma once

#include <string_view>

namespace fourfold::serve {

/// The text of page.html, page.css and page.js, put into the program by the build.
extern const std::string_view kPageHtml;
extern const std::string_view kPageCss;
extern const std::string_view kPageJs;

}  // namespace fourfold::serve
